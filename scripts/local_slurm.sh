#!/usr/bin/env bash
# A real Slurm on one machine, for trying jobs and for tests: munge, one controller, several nodes, without accounting.
#
#   scripts/local_slurm.sh start [FOLDER] [NODES]   prints what to export; FOLDER (default: a new one in TMPDIR) holds all of it
#   scripts/local_slurm.sh stop FOLDER              cancels the jobs, ends the daemons, removes FOLDER
#
# Needs Debian's slurm-wlm and munge (apt-get install slurm-wlm munge) and root. Touches no service and no file of the system.
# Nodes are node1, node2, ... with 4 CPUs each, whatever the machine has. Partitions: debug, and urgent, whose jobs pre-empt those of debug.
set -euo pipefail

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 2
}

need() {
    for program in munged slurmctld slurmd sbatch; do
        PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || {
            echo "local_slurm: $program is not installed; apt-get install slurm-wlm munge" >&2
            exit 3
        }
    done
    [ "$(id -u)" = 0 ] || {
        echo "local_slurm: slurmd starts jobs as their users: run this as root" >&2
        exit 3
    }
}

free_port() { # nobody listens there now
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

write_config() { # FOLDER NODES
    local host node
    host=$(hostname -s)
    cat <<END
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
# requeued jobs wait for the end of the old credential: seconds, not the usual two minutes
AuthInfo=socket=$1/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/%n
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/%n.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
EnforcePartLimits=ALL
JobRequeue=1
# its jobs meet at other ports than those of another Slurm on this machine
FirstJobId=$((RANDOM % 15000 + 1))
KillWait=15
ReturnToService=2
END
    for node in $(seq "$2"); do
        echo "NodeName=node$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=4 State=UNKNOWN"
    done
    echo "PartitionName=debug Nodes=ALL Default=YES MaxTime=2-0 PriorityTier=1 GraceTime=60 State=UP"
    echo "PartitionName=urgent Nodes=ALL MaxTime=2-0 PriorityTier=2 State=UP"
}

start() { # FOLDER NODES
    local dir node
    need
    dir=${1:-$(mktemp -d "${TMPDIR:-/tmp}/slurm.XXXXXX")}
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    chmod 755 "$dir"
    [ -z "$(ls -A "$dir")" ] || {
        echo "local_slurm: $dir is not empty; name a new folder" >&2
        exit 2
    }
    mkdir "$dir/state"
    trap 'echo "local_slurm: did not start; its logs are in $dir" >&2; end_daemons "$dir"' ERR
    dd if=/dev/urandom of="$dir/munge.key" bs=128 count=1 status=none
    chmod 600 "$dir/munge.key"
    munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munge.pid" \
        --log-file="$dir/munge.log" --seed-file="$dir/munge.seed" 2>>"$dir/munge.log"
    write_config "$dir" "${2:-2}" >"$dir/slurm.conf"
    export SLURM_CONF=$dir/slurm.conf
    slurmctld
    for node in $(seq "${2:-2}"); do
        mkdir -p "$dir/node$node"
        slurmd -N "node$node"
    done
    for _ in $(seq 300); do
        [ "$(sinfo -h -N -p debug -t idle -o %N 2>/dev/null | wc -l)" = "${2:-2}" ] && break
        sleep 0.2
    done
    sinfo -h -N -p debug -t idle -o %N | grep -q .
    echo "export SLURM_CONF=$dir/slurm.conf"
}

end_daemons() { # FOLDER
    local file pid
    for file in "$1"/node*.pid "$1/slurmctld.pid" "$1/munge.pid"; do
        [ -f "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
    done
}

stop() { # FOLDER
    local dir=$1
    [ -f "$dir/slurm.conf" ] || {
        echo "local_slurm: $dir has no slurm.conf; give the folder that start printed" >&2
        exit 2
    }
    export SLURM_CONF=$dir/slurm.conf
    scancel --user=root 2>/dev/null || true
    for _ in $(seq 100); do
        [ -z "$(squeue -h 2>/dev/null)" ] && break
        sleep 0.2
    done
    end_daemons "$dir"
    rm -rf "$dir"
}

PATH=$PATH:/usr/sbin
case ${1:-} in
start) start "${2:-}" "${3:-2}" ;;
stop) [ -n "${2:-}" ] || usage && stop "$2" ;;
*) usage ;;
esac
