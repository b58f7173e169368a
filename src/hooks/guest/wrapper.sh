# Runs one hook in a guest; kvmbackup passes this script to /bin/sh -c. Works in any POSIX shell, including busybox.
#   $1  the prefix of the files that control it
#   $2  seconds after which the hook is ended in any case
#   $3  seconds that a session may stay ready; 0 means a command
#   followed by the hook and its arguments
#
# The hook leads a process group (.group), and its status is in .rc. Its output goes through .log to .out. A session reads
# .in, which only this shell keeps open: if this shell dies, the session sees the end of its input.
kb_files=$1 kb_all=$2 kb_hold=$3
shift 3
cd / && mkfifo "$kb_files.in" "$kb_files.log" || exit 125

( # the newest part of the output; creates .ready after READY, and .eof at the end
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
  # Any process of a session may have the lock. A command may leave processes behind, unless it was ended.
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

# A remaining process may keep .log open, so wait only briefly for its output.
kb_tries=0
until [ -e "$kb_files.eof" ] || [ "$kb_tries" -ge 10 ]; do
  kb_tries=$((kb_tries + 1))
  sleep 0.2 2>/dev/null || sleep 1
done
exit 0
