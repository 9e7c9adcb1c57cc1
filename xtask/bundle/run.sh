#!/bin/sh
# Runs everything in this folder on every driver of this machine, within a given time, and writes what came of it.
#
#   sh run.sh [--seconds 540] [--out hmmap-results] [--only WORD]
#
# Needs: x86-64 Linux with glibc 2.36 or newer, and `timeout` (coreutils). WORD: info, conformance, bench, examples, or
# the name of one mode, suite or example. Six files, each written as its parts end:
#
#   facts.txt           the machine: system, kernel, userfaultfd, processor, memory, drivers, loader
#   info.json           what hmmap finds: devices, and what was tried on each
#   conformance.jsonl   a line for each mode of each device
#   bench.jsonl         a line for each suite on each Vulkan device
#   examples.txt        what each example prints
#   summary.txt         a line for each step, with its time; what failed, with its last words; the total
#
# Each step gets a share of the time that is left, by weight: what one does not use, the later ones have. A step that
# passes its share is stopped (`cut off`); one for which no time is left is `left out`.
#
# Exit status: 0 all went well; 1 something failed; 2 wrong use, nothing was run; 3 nothing failed, but something was
# cut off or left out; 130 interrupted.
set -u
export LC_ALL=C
unset CDPATH
exec </dev/null # lavapipe can write into whatever file is standard input

# The least share of a step, in seconds: with less, none of them would end.
LEAST_S=5
# From here on a benchmark suite is measured with all its sizes.
FULL_S=25
# Kept of the time for ending a step that does not end by itself, and for the last lines.
RESERVE_S=4
# The longest of the files, in bytes.
LONGEST_BYTES=15000000

wrong() {
    echo "run.sh: $1" >&2
    echo "usage: sh run.sh [--seconds 540] [--out hmmap-results] [--only WORD]" >&2
    exit 2
}

seconds=540 out=hmmap-results only=
while [ $# -gt 0 ]; do
    case $1 in
    --seconds | --out | --only) [ $# -ge 2 ] || wrong "$1 needs a value" ;;
    *) wrong "no such option: $1" ;;
    esac
    case $1 in
    --seconds) seconds=$2 ;;
    --out) out=$2 ;;
    --only) only=$2 ;;
    esac
    shift 2
done
case $seconds in
'' | *[!0-9]* | 0* | ???????*) wrong "--seconds needs a number of seconds, not '$seconds'" ;;
esac
[ "$seconds" -ge 10 ] || wrong "--seconds needs at least 10"
command -v timeout >/dev/null || wrong "there is no command 'timeout' here"
here=$(cd -- "$(dirname -- "$0")" && pwd) || wrong "cannot find its own folder"
mkdir -p -- "$out" && out=$(cd -- "$out" && pwd) || wrong "cannot make the folder '$out'"
[ ! -e "$out/summary.txt" ] || wrong "there are results in '$out' already; give --out a new folder"
work=$(mktemp -d) || wrong "cannot make a temporary folder"
chmod +x "$here"/bin/* "$here"/examples/* 2>/dev/null # some ways to copy a folder lose this

# Seconds on a clock that nobody sets.
now() {
    read -r up rest </proc/uptime
    echo "${up%%.*}"
}

start=$(now)
end=$((start + seconds - RESERVE_S))
info_s=$((seconds / 4))
[ $info_s -le 30 ] || info_s=30
passed=0 failed=0 cut=0 left_out=0
child=

finish() {
    took=$(($(now) - start))
    echo "total: $passed passed, $failed failed, $cut cut off, $left_out left out; $took s of $seconds s" |
        tee -a "$out/summary.txt"
    rm -rf -- "$work"
    [ -z "${1-}" ] || exit "$1"
    [ $failed -eq 0 ] || exit 1
    [ $((cut + left_out)) -eq 0 ] || exit 3
    exit 0
}

interrupted() {
    trap '' INT TERM HUP
    [ -z "$child" ] || kill "$child" 2>/dev/null
    echo "interrupted" >>"$out/summary.txt"
    finish 130
}
trap interrupted INT TERM HUP

# --- facts ----------------------------------------------------------------------------------------------------------

# fact TITLE COMMAND...: what a command says, or that it says nothing. Never fails, never takes long.
fact() {
    echo "== $1"
    shift
    timeout -k 1 5 "$@" >"$work/fact" 2>&1 || [ -s "$work/fact" ] || echo "nothing" >"$work/fact"
    head -n 80 "$work/fact" | cut -c 1-2500
    echo
}

shell_fact() {
    fact "$1" sh -c "$2"
}

facts() {
    fact "bundle" cat "$here/version.txt"
    fact "time" date -u +%Y-%m-%dT%H:%M:%SZ
    shell_fact "system" 'grep PRETTY_NAME /etc/os-release; getconf GNU_LIBC_VERSION'
    shell_fact "kernel" 'uname -srvm; cat /proc/cmdline | tr " " "\n" | grep -E "iommu|hugepage|mitigations|nokaslr"'
    shell_fact "userfaultfd" 'sysctl -n vm.unprivileged_userfaultfd 2>/dev/null ||
        cat /proc/sys/vm/unprivileged_userfaultfd; ls -l /dev/userfaultfd; id -u
        grep -E "^(CapEff|Seccomp|NoNewPrivs):" /proc/self/status'
    shell_fact "processor" 'lscpu || grep -E "model name|flags" /proc/cpuinfo | sort | uniq -c'
    shell_fact "memory" 'grep -E "^(MemTotal|MemAvailable|SwapTotal|HugePages_Total|Hugepagesize)" /proc/meminfo
        grep . /sys/kernel/mm/transparent_hugepage/enabled /sys/kernel/mm/transparent_hugepage/shmem_enabled \
            /proc/sys/vm/max_map_count /proc/sys/vm/overcommit_memory \
            /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max'
    shell_fact "limits" 'ulimit -a'
    shell_fact "NVIDIA driver" 'cat /proc/driver/nvidia/version; nvidia-smi'
    shell_fact "NVIDIA topology" 'nvidia-smi topo -m'
    shell_fact "NVIDIA clocks, ECC, bus" 'nvidia-smi --format=csv --query-gpu=name,driver_version,memory.total,pcie.link.gen.current,pcie.link.width.current,clocks.sm,clocks.mem,ecc.mode.current,compute_mode,mig.mode.current'
    shell_fact "graphics devices" 'ls -l /dev/dri /dev/nvidia* /dev/kfd
        grep . /sys/class/drm/card*/device/vendor /sys/class/drm/card*/device/device
        lspci -nn | grep -E "VGA|3D|Display|Processing"'
    # shellcheck disable=SC2016
    shell_fact "Vulkan drivers (manifests)" 'for file in /usr/share/vulkan/icd.d/* /etc/vulkan/icd.d/* \
            /usr/local/share/vulkan/icd.d/* /usr/local/etc/vulkan/icd.d/* /usr/local/nvidia/share/vulkan/icd.d/*; do
            [ -f "$file" ] && echo "$file $(tr -d " \n\t" <"$file")"
        done; env | grep -E "^(VK_|XDG_DATA_DIRS|LD_LIBRARY_PATH|CUDA_VISIBLE|NVIDIA_)"'
    # shellcheck disable=SC2016
    shell_fact "Vulkan loader, libraries of drivers" 'PATH=$PATH:/sbin:/usr/sbin
        ldconfig -p | grep -E "libvulkan|libGLX_nvidia|libEGL_nvidia|libcuda"'
}

# --- steps ----------------------------------------------------------------------------------------------------------

# attempt SECONDS COMMAND...: runs it for at most that long; leaves stdout, stderr, $outcome, $status, $took.
attempt() {
    limit=$1
    shift
    began=$(now)
    (cd "$work/room" && exec timeout -k 2 "$limit" "$@") </dev/null >"$work/stdout" 2>"$work/stderr" &
    child=$!
    wait "$child"
    status=$?
    child=
    took=$(($(now) - began))
    case $status in
    0) outcome=passed ;;
    124) outcome="cut off" ;;
    137) [ "$took" -ge "$limit" ] && outcome="cut off" || outcome=failed ;;
    *) outcome=failed ;;
    esac
}

# add FILE: what is on standard input, to the end of a result; not past the longest that it may be.
add() {
    cat >"$work/part"
    if [ $(($(wc -c <"$work/part") + $(cat "$out/$1" 2>/dev/null | wc -c))) -lt $LONGEST_BYTES ]; then
        cat "$work/part" >>"$out/$1"
    else
        echo "  too long for $1, not kept: $(wc -c <"$work/part") bytes" >>"$out/summary.txt"
    fi
}

# The report that a step wrote, on one line: strings in JSON have no line ends. `null` where it is not whole.
report() {
    case "$(head -c 1 "$work/report" 2>/dev/null)$(tail -c 2 "$work/report" 2>/dev/null | tr -d '\n' | tail -c 1)" in
    '{}' | '[]') sed 's/^ *//' "$work/report" | tr -d '\n' ;;
    *) printf null ;;
    esac
}

# A line for summary.txt and the terminal, and what is worth reading of the step's words below it.
tell() {
    line="$outcome: $1, $took s of $2 s"
    case $outcome in
    passed) passed=$((passed + 1)) ;;
    failed) failed=$((failed + 1)) line="FAILED: $1, exit status $status, $took s of $2 s" ;;
    "cut off") cut=$((cut + 1)) ;;
    "left out") left_out=$((left_out + 1)) line="left out: $1, $2 s were left" ;;
    esac
    echo "$line"
    echo "$line" >>"$out/summary.txt"
    [ "$outcome" = "left out" ] && return
    case $1 in
    bench*) sed 's/^/  /' "$work/stdout" >>"$out/summary.txt" ;;
    conformance*) grep -E '^  (FAILED|.* passed, )|coherence table|not seen' "$work/stdout" >>"$out/summary.txt" ;;
    esac
    [ "$outcome" = passed ] || tail -n 25 "$work/stderr" | cut -c 1-400 | sed 's/^/  | /' >>"$out/summary.txt"
}

# json_line FILE STEP DEVICE SHARE: the step as one line of JSON.
json_line() {
    code=$status
    [ "$outcome" = "left out" ] && code=null took=0
    printf '{"step":"%s","device":%s,"outcome":"%s","exit":%s,"took_s":%s,"share_s":%s,"report":%s}\n' \
        "$2" "$3" "$outcome" "$code" "$took" "$4" "$(report)" | add "$1"
}

# step WEIGHT KIND NAME DEVICE: one step of the plan, with its share of the time.
step() {
    left=$((end - $(now)))
    share=$((left * $1 / weights))
    weights=$((weights - $1))
    [ $share -ge $LEAST_S ] || share=$LEAST_S
    [ $share -le $left ] || share=$left
    rm -f "$work/report"
    : >"$work/stdout"
    : >"$work/stderr"
    what="$2 $3"
    if [ $share -lt 3 ]; then
        outcome="left out" share=$left
        [ $share -ge 0 ] || share=0
    fi
    case $2 in
    conformance)
        [ "$outcome" = "left out" ] || attempt $share "$here/bin/hmmap-conformance" --mode "$3" --json "$work/report"
        json_line conformance.jsonl "$what" null $share
        ;;
    bench)
        what="$what on device $4" quick=
        [ $share -ge $FULL_S ] || quick=--quick
        # What a suite takes beyond its cases has a quarter of the share.
        [ "$outcome" = "left out" ] || attempt $share "$here/bin/hmmap" bench "$3" --device "$4" \
            --seconds $((share * 3 / 4)) --json "$work/report" $quick
        json_line bench.jsonl "$what" "$4" $share
        ;;
    example)
        [ "$outcome" = "left out" ] || attempt $share "$here/examples/$3"
        { echo "== $3: $outcome"; cat "$work/stdout" "$work/stderr"; echo; } | add examples.txt
        ;;
    esac
    tell "$what" $share
    outcome=
}

# --- what there is --------------------------------------------------------------------------------------------------

# Number, interface and kind of each device in info.json, one on a line: 0 vulkan discrete GPU
devices() {
    awk -F'"' '
        $2 == "number" { gsub(/[^0-9]/, "", $3); number = $3 }
        $2 == "api" { api = $4 }
        $2 == "kind" { print number, api, $4 }' "$out/info.json"
}

find_devices() {
    attempt $info_s "$here/bin/hmmap" info --json
    cp "$work/stdout" "$out/info.json"
}

has_gpu() {
    devices | grep -q 'vulkan .*GPU'
}

# What hmmap finds. Without a loader on the system, with the loader in this folder; without a GPU, once more with
# manifests that lie where no loader looks.
info() {
    find_devices
    loader="the system's"
    if grep -q '"vulkan_loader": null' "$out/info.json" && [ -f "$here/lib/libvulkan.so.1" ]; then
        export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        loader="this bundle's, since the system has none"
        find_devices
    fi
    if ! has_gpu && [ -z "${VK_DRIVER_FILES-}${VK_ICD_FILENAMES-}" ]; then
        for manifest in /usr/local/nvidia/share/vulkan/icd.d/*.json; do
            [ -f "$manifest" ] || continue
            export VK_DRIVER_FILES="$manifest" VK_ICD_FILENAMES="$manifest"
            loader="$loader, with VK_DRIVER_FILES=$manifest"
            find_devices
        done
    fi
    {
        echo "== Vulkan loader that was used"
        echo "$loader"
        grep '"vulkan_loader"' "$out/info.json"
    } | add facts.txt
    tell "info" $info_s
}

# The steps, a line each: WEIGHT KIND NAME DEVICE. A GPU has more of the time than a driver that computes on the CPU.
plan() {
    "$here/bin/hmmap-conformance" --list | awk '/^cases/ { exit } /^  / { print 4, "conformance", $1, "-" }'
    suites=$("$here/bin/hmmap" bench list | awk -F: '/^[^ ]/ { print $1 }')
    devices >"$work/devices"
    grep -q ' vulkan ' "$work/devices" && grep ' vulkan ' "$work/devices" >"$work/chosen" ||
        head -n 1 "$work/devices" >"$work/chosen"
    while read -r number api kind; do
        weight=8
        [ "$kind" = CPU ] && weight=4
        for suite in $suites; do
            echo "$weight bench $suite $number"
        done
    done <"$work/chosen"
    for example in "$here"/examples/*; do
        echo "1 example ${example##*/} -"
    done
}

# True if `--only` wants this step.
wanted() {
    case $only in
    '' | "$1" | "$2") true ;;
    examples) [ "$1" = example ] ;;
    *) false ;;
    esac
}

mkdir "$work/room" || wrong "cannot make a temporary folder"
for file in facts.txt info.json conformance.jsonl bench.jsonl examples.txt summary.txt; do
    : >"$out/$file" || wrong "cannot write $out/$file"
done
echo "$(cat "$here/version.txt"); $seconds s${only:+, only $only}" >"$out/summary.txt"
facts | add facts.txt
info
plan >"$work/plan" 2>"$work/stderr"
weights=0
while read -r weight kind name device; do
    wanted "$kind" "$name" || continue
    echo "$weight $kind $name $device" >>"$work/steps"
    weights=$((weights + weight))
done <"$work/plan"
for kind in conformance bench example; do
    grep -q " $kind " "$work/plan" && continue
    outcome=failed status=none took=0
    tell "$kind: there is nothing of this kind to run" 0
done
if [ ! -f "$work/steps" ] && [ "$only" != info ]; then
    failed=$((failed + 1))
    echo "FAILED: nothing is called '$only'" | tee -a "$out/summary.txt"
fi
[ -f "$work/steps" ] || : >"$work/steps"
outcome=
while read -r weight kind name device; do
    step "$weight" "$kind" "$name" "$device"
done <"$work/steps"
finish
