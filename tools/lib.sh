# What the scripts beside this file share. POSIX sh: they run on a machine that may have no Python at all.
# Everything said to a person goes to standard error; standard output carries results only.

# The version that is built from source, and the name of its folder in the user's cache.
PYTHON_VERSION=3.14.7
PYTHON_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/serverd/python"
PYTHON_BUILT="$PYTHON_CACHE/${PYTHON_VERSION}t"

say() {
    printf 'serverd: %s\n' "$*" >&2
}

die() {
    say "$*"
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# Asked of a candidate, in words that any Python since 2.7 understands: "KIND VERSION EXECUTABLE", where KIND is
# free (free-threaded), gil, old, or lacks:MODULE (a module of the standard library that was not built or is packaged
# apart). EXECUTABLE is the interpreter itself, also when the candidate is a shim or stands in a virtual environment.
PYTHON_PROBE='
import sys, sysconfig
kind = "free" if sysconfig.get_config_var("Py_GIL_DISABLED") else "gil"
if sys.version_info < (3, 14):
    kind = "old"
else:
    for module in ("ssl", "zlib", "sqlite3", "ctypes", "venv", "ensurepip"):
        try:
            __import__(module)
        except ImportError:
            kind = "lacks:" + module
            break
print("%s %d.%d.%d %s" % ((kind,) + tuple(sys.version_info[:3]) + (getattr(sys, "_base_executable", sys.executable),)))
'

# probe CANDIDATE: sets probe_kind, probe_version and probe_path; probe_kind is "broken" for what does not run.
probe() {
    probe_kind=broken probe_version='' probe_path=''
    if probe_answer=$("$1" -I -c "$PYTHON_PROBE" 2>/dev/null </dev/null); then
        read -r probe_kind probe_version probe_path <<EOF
$probe_answer
EOF
    fi
}
