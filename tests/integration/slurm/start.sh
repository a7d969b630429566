#!/usr/bin/env bash
# A SLURM of one node on this machine, for tests: a controller, a node and munge, installed from Debian's packages.
#   tests/integration/slurm/start.sh start FOLDER     prints the line to put in the environment, when the node is idle
#   tests/integration/slurm/start.sh stop FOLDER
# FOLDER holds configuration, state and logs. Needs root, on Debian or a relative of it.
# Exit status 3: impossible here; 4: the packages cannot be installed, for want of a network perhaps.
set -euo pipefail

impossible() { echo "$1" >&2; exit 3; }

[[ $# == 2 && $1 =~ ^(start|stop)$ ]] || { echo "usage: $0 start|stop FOLDER" >&2; exit 2; }
mkdir -p "$2"
folder=$(cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf

end() { # the process whose id a file holds, if it is the program it should be
    local id
    id=$(cat "$folder/$1.pid" 2>/dev/null) || return 0
    [[ $(ps -o comm= -p "$id") == "$1" ]] || return 0
    kill "$id"
    for _ in $(seq 100); do kill -0 "$id" 2>/dev/null || return 0; sleep 0.1; done
    kill -9 "$id"
}

stop() {
    if [[ -f $SLURM_CONF ]] && scontrol ping 2>/dev/null | grep -q UP; then
        scancel --user=root 2>/dev/null || true
        for _ in $(seq 100); do [[ -z $(squeue --noheader) ]] && break; sleep 0.1; done
    fi
    for name in slurmd slurmctld munged; do end "$name"; done
    [[ -f $folder/munge ]] && rm -rf "$(cat "$folder/munge")" "$folder/munge" || true
}

if [[ $1 == stop ]]; then stop; exit; fi

[[ $(id -u) == 0 ]] || impossible "a SLURM for tests needs root"
command -v apt-get >/dev/null || impossible "a SLURM for tests needs Debian's packages"
if ! command -v slurmctld slurmd sbatch munged >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends munge slurmctld slurmd slurm-client; } \
        >"$folder/install.log" 2>&1 || {
        echo "SLURM's packages cannot be installed: $(tail -n 1 "$folder/install.log")" >&2
        exit 4
    }
fi
if [[ ! -s /etc/munge/munge.key ]]; then
    (umask 077; dd if=/dev/urandom of=/etc/munge/munge.key bs=128 count=1 status=none)
    chown munge:munge /etc/munge/munge.key
fi

host=$(hostname -s)
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
# Not /run/munge, where a munge of the machine's own may be. Its daemon will not use a folder that others can write to.
munge=$(mktemp -d /run/munge-test-XXXXXX)
echo "$munge" >"$folder/munge"
chown munge:munge "$munge"
chmod 755 "$munge"
mkdir -p "$folder/controller" "$folder/node"
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$munge/socket
CredType=cred/munge
SlurmctldPort=${SLURM_TEST_PORT:-6817}
SlurmdPort=$((${SLURM_TEST_PORT:-6817} + 1))
StateSaveLocation=$folder/controller
SlurmdSpoolDir=$folder/node
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
KillWait=5
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=60
Waittime=0
MailProg=/bin/true
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF

trap 'stop' ERR
setpriv --reuid=munge --regid=munge --clear-groups munged --socket="$munge/socket" --pid-file="$munge/munged.pid" \
    --log-file="$munge/munged.log" --seed-file="$munge/munged.seed"
cp "$munge/munged.pid" "$folder/munged.pid"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in $(seq 200); do
    [[ $(sinfo --noheader --format=%t 2>/dev/null) == idle ]] && break
    sleep 0.1
done
[[ $(sinfo --noheader --format=%t) == idle ]] || { echo "the node is not idle: see $folder/*.log" >&2; false; }
echo "SLURM_CONF=$SLURM_CONF"
