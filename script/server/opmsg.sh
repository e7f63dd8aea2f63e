# shellcheck shell=bash
#
# opmsg.sh - one command to a server that speaks MongoDB's protocol, with nothing but bash.
# Sourced, never run.
#
# Knows:   OP_MSG (opcode 2013), and as much of BSON as a few commands need.
# Ignores: logins, replies of several parts, what the commands mean.
#
# bash keeps no zero bytes in a string, so all of it is hexadecimal until it is sent.

hex()
{
    printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n'
}

hex_int32()
{
    printf '%02x%02x%02x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) \
        $(($1 >> 24 & 255))
}

# ELEMENTS in hexadecimal: the document that holds them.
document()
{
    printf '%s%s00' "$(hex_int32 $((${#1} / 2 + 5)))" "$1"
}

# element_TYPE NAME VALUE
element_text()
{
    local value
    value=$(hex "$2")
    printf '02%s00%s%s00' "$(hex "$1")" "$(hex_int32 $((${#value} / 2 + 1)))" "$value"
}

element_int32()
{
    printf '10%s00%s' "$(hex "$1")" "$(hex_int32 "$2")"
}

element_document()
{
    printf '03%s00%s' "$(hex "$1")" "$(document "$2")"
}

element_array()
{
    printf '04%s00%s' "$(hex "$1")" "$(document "$2")"
}

# So many bytes of the connection, which is descriptor 7.
bytes()
{
    timeout 5 head -c "$1" <&7 | od -An -v -tx1 | tr -d ' \n'
}

# ask PORT ELEMENTS: send the command to loopback and print the reply's document, also in
# hexadecimal. Status 0 if it says { ok: 1.0 }.
ask()
(
    # The message is no flags, then one section of the kind 0; the header before it is the
    # length of all, our number, that of the message answered, and the opcode.
    message=0000000000$(document "$2")
    message=$(hex_int32 $((${#message} / 2 + 16)))0100000000000000dd070000$message

    exec 7<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf '%b' "$(printf '%s' "$message" | sed 's/../\\x&/g')" >&7
    size=$(bytes 4)
    [[ ${#size} == 8 ]] || exit 1
    reply=$(bytes $((16#${size:6:2}${size:4:2}${size:2:2}${size:0:2} - 4)))
    printf '%s\n' "${reply:34}"
    [[ $reply == *"01$(hex ok)00000000000000f03f"* ]]
) 2>/dev/null
