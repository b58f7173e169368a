# shellcheck shell=bash
# What the session hooks for SQL servers share: one client of the server, held open over pipes, and the time from READY to
# RELEASE. Owns no statement of any server.
#
# A lock belongs to the client's connection. That ends with the client, the client with its input, and that with the
# script, even when it is killed: nothing else holds the pipe.
set -uo pipefail

say() { echo "${0##*/}: $*" >&2; }
die() { say "$*"; exit 1; }

# connect COMMAND…: starts the client. It must print what it is asked at once, and end at the first error.
connect() {
  coproc CLIENT { exec "$@"; }
  pid=$CLIENT_PID
  # bash closes its own descriptors once the client has ended, before its last words are read.
  exec {to}>&"${CLIENT[1]}" {from}<&"${CLIENT[0]}"
  eval "exec ${CLIENT[1]}>&- ${CLIENT[0]}<&-"
  trap 'say "told to stop"; kill "$pid" 2>/dev/null; wait "$pid"; exit 143' TERM INT HUP
  trap '' PIPE
}

tell() { { echo "$1" >&"$to"; } 2>/dev/null; }

# The client itself has said on stderr what it died of.
ended() { wait "$pid"; die "$1 (the client ended with $?)"; }

# ask WHAT STATEMENTS: has the client run them. What it prints goes to `answer`; when one fails, WHAT is the error.
ask() {
  local line
  answer=
  tell "$2"$'\n'"SELECT 'kvmbackup: done';" || ended "$1"
  while IFS= read -r -u "$from" line; do
    [[ $line != 'kvmbackup: done' ]] || return 0
    answer+=$line$'\n'
  done
  ended "$1"
}

# hold: says READY, and returns at RELEASE, or when kvmbackup is no more. Dies when the lock is lost.
#
# A question each second keeps the connection from being taken for a dead one, and notices its loss. Nothing waits for the
# answer: while the guest is frozen, a server that logs its queries cannot give one.
hold() {
  local line code asked=0 word=
  echo READY
  while :; do
    read -r -t 1 line
    code=$?
    word+=$line # on a busy host, the second may end in the midst of the word
    [[ $code != 0 || $word != RELEASE ]] || return 0
    ((code == 0 || code > 128)) || return 0 # above 128: nothing, or not all, was said for a second
    if ((!asked)); then
      tell "SELECT 'kvmbackup: held';" || ended "the lock was lost while it was held"
      asked=1
    fi
    while read -r -t 0 -u "$from"; do
      IFS= read -r -u "$from" line || ended "the lock was lost while it was held"
      [[ $line != 'kvmbackup: held' ]] || asked=0
    done
  done
}

# disconnect: ends the client.
disconnect() {
  exec {to}>&-
  wait "$pid" || die "the client ended with $?"
}
