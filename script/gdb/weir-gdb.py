# weir-gdb.py - coroutines of weir, in a live process or a core.
#
#     (gdb) source weir-gdb.py
#     (gdb) weir coroutines          all coroutines of all hubs
#     (gdb) weir bt 17               the backtrace of coroutine 17 (weir bt 2/17: of hub 2)
#     (gdb) weir bt all              of every parked one
#
# Knows:   the hubs' list (weir_hubs_, hubs.c), their tasks, where a switch saves registers.
# Ignores: everything that would need code to run in the process: a core has none.
#
# A parked coroutine's frames are found by gdb itself, from its saved registers. Those of a core
# cannot be changed, and those of a process should not be: so an unwinder below makes the
# coroutine, for as long as it is asked about, the caller of whatever frame is innermost, and
# that one is left out. It needs weir's debug information, and x86-64.

import gdb
import gdb.unwinder

STATES = ("ready", "running", "parked", "reserved", "done")
ALIVE = (0, 1, 2)


# ---- reading the process ------------------------------------------------------------------

def hubs():
    symbol = gdb.lookup_global_symbol("weir_hubs_") or gdb.lookup_static_symbol("weir_hubs_")
    if symbol is None:
        raise gdb.GdbError("weir: no weir_hubs_ here: is the program linked with weir, with its "
                           "debug information?")
    hub = symbol.value()
    while int(hub):
        yield hub.dereference()
        hub = hub.dereference()["next_hub"]


def tasks(hub):
    """Those that are alive, by their numbers."""
    found = []
    block = hub["task_blocks"]
    if int(block):
        block = block.cast(gdb.lookup_type("struct task_block").pointer())
    while int(block):
        array = block["tasks"]
        low, high = array.type.range()
        for i in range(low, high + 1):
            task = array[i]
            if int(task["hub"]) and int(task["state"]) in ALIVE:
                found.append(task)
        block = block["next"]
    return sorted(found, key=lambda task: int(task["id"]))


def text(pointer, otherwise):
    if not int(pointer):
        return otherwise
    try:
        return pointer.string()
    except gdb.MemoryError:
        return "?"


def describe(hub, task):
    state = STATES[int(task["state"])]
    why = text(task["why"], "")
    if state == "parked" and why:
        state = "waits for " + why
    flags = ", cancelled" if task["canceled"] else ""
    return "%d/%d %s: %s%s; spawned at %s" % (
        int(hub["number"]), int(task["id"]), text(task["name"], "coroutine"), state, flags,
        text(task["site"], "?"))


def find(what):
    number, _, task_id = what.rpartition("/")
    for hub in hubs():
        if number and int(hub["number"]) != int(number):
            continue
        for task in tasks(hub):
            if int(task["id"]) == int(task_id):
                return hub, task
    raise gdb.GdbError("weir: no coroutine %s is alive; 'weir coroutines' lists them" % what)


# ---- saved registers ----------------------------------------------------------------------

# Where Boost's jump_fcontext (1.61 and later, x86-64 System V) leaves them, counted from the
# address it hands over; above them is the caller's stack.
FCONTEXT = {"r12": 0x08, "r13": 0x10, "r14": 0x18, "r15": 0x20, "rbx": 0x28, "rbp": 0x30,
            "rip": 0x38}
FCONTEXT_SIZE = 0x40

# In ucontext_t.uc_mcontext.gregs (glibc, <sys/ucontext.h>).
UCONTEXT = {"r12": 4, "r13": 5, "r14": 6, "r15": 7, "rbp": 10, "rbx": 11, "rsp": 15, "rip": 16}


def saved_registers(task):
    machine = task["context"]["machine"]
    if machine.type.code != gdb.TYPE_CODE_PTR:
        gregs = machine["uc_mcontext"]["gregs"]
        return {name: int(gregs[i]) for name, i in UCONTEXT.items()}
    at = int(machine)
    word = gdb.lookup_type("unsigned long").pointer()
    saved = {name: int(gdb.Value(at + offset).cast(word).dereference())
             for name, offset in FCONTEXT.items()}
    saved["rsp"] = at + FCONTEXT_SIZE
    return saved


class Frame(object):
    def __init__(self, sp, pc):
        self.sp = sp
        self.pc = pc


class Parked(gdb.unwinder.Unwinder):
    """Makes a parked coroutine the caller of the innermost frame, while it is asked about."""

    def __init__(self):
        super(Parked, self).__init__("weir parked coroutine")
        self.saved = None
        self.top = None

    def __call__(self, pending):
        if self.saved is None:
            return None
        sp = int(pending.read_register("rsp"))
        pc = int(pending.read_register("rip"))
        if self.top is None:
            self.top = (sp, pc)
        if (sp, pc) != self.top:
            return None
        # gdb wants each frame's stack above that of the one it called.
        long_type = gdb.lookup_type("unsigned long")
        below = gdb.Value(self.saved["rsp"] - 16).cast(long_type)
        made = pending.create_unwind_info(Frame(below, gdb.Value(pc)))
        for name, value in self.saved.items():
            made.add_saved_register(name, gdb.Value(value & (2 ** 64 - 1)).cast(long_type))
        return made


PARKED = Parked()
gdb.unwinder.register_unwinder(None, PARKED, replace=True)


def show_parked(task, how):
    PARKED.saved, PARKED.top = saved_registers(task), None
    gdb.invalidate_cached_frames()
    try:
        words = gdb.execute("backtrace " + how, to_string=True)
    finally:
        PARKED.saved, PARKED.top = None, None
        gdb.invalidate_cached_frames()
    # The first frame is wherever the selected thread is: not the coroutine's.
    lines = words.splitlines()
    while lines and not lines[0].startswith("#1 "):
        lines.pop(0)
    gdb.write("\n".join(lines) + "\n")


def show_running(hub):
    thread = gdb.selected_thread()
    for other in gdb.selected_inferior().threads():
        if other.ptid[1] == int(hub["tid"]) or other.ptid[2] == int(hub["tid"]):
            other.switch()
            break
    else:
        gdb.write("it runs, on a thread that gdb does not see (%d)\n" % int(hub["tid"]))
        return
    try:
        gdb.execute("backtrace")
    finally:
        thread.switch()


def show(hub, task, how=""):
    gdb.write(describe(hub, task) + "\n")
    if int(task["state"]) == 1:
        show_running(hub)
    elif gdb.selected_frame().architecture().name() != "i386:x86-64":
        gdb.write("backtraces of parked coroutines are for x86-64\n")
    else:
        show_parked(task, how)


# ---- commands -----------------------------------------------------------------------------

class Weir(gdb.Command):
    """Coroutines of weir: weir coroutines, weir bt."""

    def __init__(self):
        super(Weir, self).__init__("weir", gdb.COMMAND_STACK, prefix=True)


class WeirCoroutines(gdb.Command):
    """List all coroutines of all hubs: HUB/ID NAME: STATE; where it was spawned."""

    def __init__(self):
        super(WeirCoroutines, self).__init__("weir coroutines", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        count = 0
        for hub in hubs():
            for task in tasks(hub):
                gdb.write(describe(hub, task) + "\n")
                count += 1
        gdb.write("%d coroutines\n" % count)


class WeirBacktrace(gdb.Command):
    """Show where a coroutine is: weir bt ID, weir bt HUB/ID, or weir bt all."""

    def __init__(self):
        super(WeirBacktrace, self).__init__("weir bt", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        words = gdb.string_to_argv(argument)
        if not words:
            raise gdb.GdbError("weir: weir bt ID, weir bt HUB/ID, or weir bt all")
        if words[0] == "all":
            for hub in hubs():
                for task in tasks(hub):
                    show(hub, task)
                    gdb.write("\n")
            return
        try:
            hub, task = find(words[0])
        except ValueError:
            raise gdb.GdbError("weir: '%s' is no number of a coroutine" % words[0])
        show(hub, task, " ".join(words[1:]))


Weir()
WeirCoroutines()
WeirBacktrace()
