#!/bin/bash
# Boots a real systemd as PID 1 in a container over an overlay of / (changes stay in memory, own loopback).
#   sdboot.sh up | run CMD... | down | log          needs root, systemd-container (systemd-nspawn), util-linux
#   SDBOX   the folder that holds it all (default /run/sdboot); $SDBOX/root is the container's /, writable
#   SDBIND  "host:inside host:inside ...": folders of the host that are seen inside, read-only
# DynamicUser implies PrivateTmp: run nothing from /tmp, bind it elsewhere.
set -u
BOX=${SDBOX:-/run/sdboot}; ROOT=$BOX/root
leader() { cat "$BOX/leader"; }
case ${1:-} in
up)
  mkdir -p "$BOX"; mount -t tmpfs -o size=2g tmpfs "$BOX" || exit 1; mkdir -p "$BOX/up" "$BOX/work" "$ROOT"
  mount -t overlay overlay -o "lowerdir=/,upperdir=$BOX/up,workdir=$BOX/work" "$ROOT" || { umount "$BOX"; exit 1; }
  rm -rf "$ROOT"/etc/systemd/system/*.wants; : >"$ROOT/etc/machine-id"; rm -f "$ROOT/etc/resolv.conf"
  BINDS=(); for pair in ${SDBIND:-}; do BINDS+=("--bind-ro=$pair"); done
  setsid systemd-nspawn -q -D "$ROOT" --boot --private-network --register=no --keep-unit --machine="sdboot-$$" \
    "${BINDS[@]}" systemd.unit=multi-user.target >"$BOX/log" 2>&1 </dev/null &
  echo $! >"$BOX/pid"
  for _ in $(seq 150); do
    kill -0 "$(cat "$BOX/pid")" 2>/dev/null || break
    L=$(pgrep -P "$(cat "$BOX/pid")" -x systemd | head -1)
    [ -n "$L" ] && nsenter -t "$L" -a systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded' && break
    sleep 0.2
  done
  echo "$L" >"$BOX/leader"; nsenter -t "$L" -a systemctl is-system-running | grep -E 'running|degraded' ;;
run) shift; exec nsenter -t "$(leader)" -a "$@" ;;
down)
  nsenter -t "$(leader)" -a systemctl poweroff 2>/dev/null
  for _ in $(seq 50); do kill -0 "$(cat "$BOX/pid")" 2>/dev/null || break; sleep 0.2; done
  kill -0 "$(cat "$BOX/pid")" 2>/dev/null && kill -KILL "$(cat "$BOX/pid")"
  umount "$ROOT"; umount "$BOX" ;;
log) tail -n "${2:-20}" "$BOX/log" ;;
*) sed -n '2,6p' "$0"; exit 2 ;;
esac
