# Runs one hook in a guest: what kvmbackup hands to /bin/sh -c there. For any POSIX shell, busybox too.
#   $1  the prefix of the files by which it is spoken to
#   $2  seconds after which the hook is ended, whatever it does
#   $3  seconds that a session may hold; 0: it is a command
#   then the hook and its arguments
#
# The hook leads a process group (.group) and its status is in .rc. What it says goes through .log to .out. A session reads
# .in, which this shell alone keeps open: when this shell dies, the session finds the end of its input.
kb_files=$1 kb_all=$2 kb_hold=$3
shift 3
cd / && mkfifo "$kb_files.in" "$kb_files.log" || exit 125

( # what it says, the newest of it; .ready once it has said READY; .eof at its end
  if [ "$kb_hold" = 0 ]; then
    cat
  else
    kb_cr=$(printf '\r')
    while IFS= read -r kb_line || [ -n "$kb_line" ]; do
      case $kb_line in READY | READY"$kb_cr") : >"$kb_files.ready" ;; esac
      printf '%s\n' "$kb_line"
    done
  fi | tail -c 65537 >"$kb_files.out"
  : >"$kb_files.eof"
) <"$kb_files.log" &

exec 3<>"$kb_files.in"
( # the hook itself
  kb_in=$kb_files.in
  [ "$kb_hold" != 0 ] || kb_in=/dev/null
  setsid timeout -k 5 "$kb_all" "$@" <"$kb_in" >"$kb_files.log" 2>&1 &
  kb_group=$!
  echo "$kb_group" >"$kb_files.group"
  wait "$kb_group"
  kb_code=$?
  echo "$kb_code" >"$kb_files.code"
  mv "$kb_files.code" "$kb_files.rc"
  # Any process of a session may be the one that holds the lock; a command leaves what it likes, unless it was ended.
  case $kb_hold:$kb_code in
  0:124 | 0:137 | 0:143 | [1-9]*)
    if kill -TERM "-$kb_group" 2>/dev/null; then
      sleep 1
      kill -KILL "-$kb_group" 2>/dev/null
    fi
    ;;
  esac
) 3>&- &
kb_runner=$!

if [ "$kb_hold" = 0 ]; then exec 3>&-; fi
kb_until='' kb_told=''
until [ "$kb_hold" = 0 ] || [ -e "$kb_files.rc" ]; do
  read -r kb_now </proc/uptime
  kb_now=${kb_now%%.*}
  if [ -z "$kb_until" ] && [ -e "$kb_files.ready" ]; then kb_until=$((kb_now + kb_hold + 1)); fi
  if [ -z "$kb_told" ] && [ -e "$kb_files.release" ]; then
    kb_told=1
    exec 3>&-
  elif [ -z "$kb_told" ] && [ -n "$kb_until" ] && [ "$kb_now" -ge "$kb_until" ]; then
    kb_told=1
    : >"$kb_files.expired"
    echo RELEASE >&3
    exec 3>&-
  fi
  sleep 0.2 2>/dev/null || sleep 1
done
wait "$kb_runner"

# A process that it left behind may keep .log open; its words are not waited for.
kb_tries=0
until [ -e "$kb_files.eof" ] || [ "$kb_tries" -ge 10 ]; do
  kb_tries=$((kb_tries + 1))
  sleep 0.2 2>/dev/null || sleep 1
done
exit 0
