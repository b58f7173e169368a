# shellcheck shell=bash
# Shared code of the session hooks for SQL servers: one client, connected through pipes, from READY to RELEASE. It contains no
# statement of a specific server.
#
# The lock is bound to the client's connection. When this script ends, even by SIGKILL, the pipe to the client closes, because
# no other process has it open. The client then exits, and its connection ends.
set -uo pipefail

say() { echo "${0##*/}: $*" >&2; }
die() { say "$*"; exit 1; }

# connect COMMAND…: starts the client, which must print results immediately and exit at the first error.
connect() {
  coproc CLIENT { exec "$@"; }
  pid=$CLIENT_PID
  # bash closes its own descriptors when the client exits, before its last output is read.
  exec {to}>&"${CLIENT[1]}" {from}<&"${CLIENT[0]}"
  eval "exec ${CLIENT[1]}>&- ${CLIENT[0]}<&-"
  trap 'say "terminated by a signal"; kill "$pid" 2>/dev/null; wait "$pid"; exit 143' TERM INT HUP
  trap '' PIPE
}

send() { { echo "$1" >&"$to"; } 2>/dev/null; }

# The client itself has printed the cause to stderr.
ended() { wait "$pid"; die "$1 (the client exited with $?)"; }

# ask WHAT STATEMENTS: runs statements. Their output is in `answer`. If one fails, WHAT is the error message.
ask() {
  local line
  answer=
  send "$2"$'\n'"SELECT 'kvmbackup: done';" || ended "$1"
  while IFS= read -r -u "$from" line; do
    [[ $line != 'kvmbackup: done' ]] || return 0
    answer+=$line$'\n'
  done
  ended "$1"
}

# hold: prints READY, and returns at RELEASE or when kvmbackup no longer runs. Dies if the lock is lost.
#
# A query every second keeps the connection from becoming idle and detects its loss. Nothing waits for the reply: while the
# guest is frozen, a server that logs its queries cannot reply.
hold() {
  local line code asked=0 word=
  echo READY
  while :; do
    read -r -t 1 line
    code=$?
    word+=$line # on a busy host, the second may end in the middle of the word
    [[ $code != 0 || $word != RELEASE ]] || return 0
    ((code == 0 || code > 128)) || return 0 # above 128: no complete line within a second
    if ((!asked)); then
      send "SELECT 'kvmbackup: held';" || ended "the lock was lost before its release"
      asked=1
    fi
    while read -r -t 0 -u "$from"; do
      IFS= read -r -u "$from" line || ended "the lock was lost before its release"
      [[ $line != 'kvmbackup: held' ]] || asked=0
    done
  done
}

# disconnect: closes the connection and waits for the client to exit.
disconnect() {
  exec {to}>&-
  wait "$pid" || die "the client exited with $?"
}
