#!/bin/bash
# Drives the service under a real systemd, as its administrator would. Runs inside the guest, where
# the package is installed; what it prints ends up on the terminal of `cargo xtask vm --systemd`.
exec > /dev/ttyS1 2>&1
stty -F /dev/ttyS1 -opost
export LC_ALL=C.UTF-8 SYSTEMD_PAGER= SYSTEMD_COLORS=0 COLUMNS=110
conf=/etc/faultline/faultline.toml

# check WHAT COMMAND…: one line of the result.
check() {
    local what=$1
    shift
    if "$@" > /tmp/out 2>&1; then echo "check: ok      $what"; else
        echo "check: FAILED  $what"
        echo "  $*"
        sed 's/^/  /' /tmp/out
    fi
}
# show COMMAND…: a transcript.
show() {
    echo "\$ $*"
    "$@"
}
fails() { ! "$@"; }
says() { # says TEXT COMMAND…
    local text=$1
    shift
    "$@" 2>&1 | tee /tmp/said | grep -qF -- "$text" || { cat /tmp/said; false; }
}
property() { [ "$(systemctl show -P "$1" faultline)" = "$2" ]; }
within() { # within SECONDS COMMAND…
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.5
    done
}
main_pid() { systemctl show -P MainPID faultline; }
listed() { # listed PROBE
    faultline ctl list --json | grep -oE '"name":"[^"]*"' | grep -qF "\"name\":\"$1\""
}
probe() { # probe NAME PROBE ACTION
    printf '[[probe]]\nname = "%s"\nprobe = "%s"\naction = "%s"\n' "$1" "$2" "$3"
}

show uname -r
systemctl --version | head -1
version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
# What systemd says of the unit, but for the one line that an older one does not know.
complaints() {
    systemd-analyze verify --man=no faultline.service 2>&1 |
        if [ "$version" -lt 253 ]; then grep -v 'ignoring: notify-reload$'; else cat; fi
}

check "the package neither enables nor starts it" property UnitFileState disabled
check "nothing runs after boot" property ActiveState inactive
check "systemd-analyze verify is clean" [ -z "$(complaints)" ]
systemd-analyze security faultline 2>/dev/null | tail -1

# What only the capabilities let it see: a library of root's own, one in /home and one in /tmp.
library=$(ls /usr/lib/*/libselinux.so.1)
for folder in /root/private /home/lib /tmp/lib; do
    install -D -m 700 "$library" "$folder/libselinux.so.1"
done
{
    probe libc-open 'libc:open*(path: str, flags: x32) -> i32' events
    probe root-private '/root/private/libselinux.so.1:is_selinux_enabled' count
    probe home '/home/lib/libselinux.so.1:is_selinux_enabled' count
    probe tmp '/tmp/lib/libselinux.so.1:is_selinux_enabled' latency
    printf '[events]\nfile = "/var/log/faultline/events.json"\n'
} > $conf
chmod 644 $conf

check "it starts, and is ready" systemctl start faultline
if [ "$version" -ge 253 ]; then type=notify-reload; else type=notify; fi
check "its type is $type" property Type $type
for folder in /root/private /home/lib /tmp/lib; do LD_LIBRARY_PATH=$folder id > /dev/null; done
sleep 3
show systemctl status --no-pager --lines 5 faultline
show faultline ctl list
show ls -l /run/faultline /var/log/faultline
echo "\$ grep … /proc/$(main_pid)/status"
grep -E '^(Uid|Gid|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' "/proc/$(main_pid)/status"
for name in root-private home tmp; do
    check "probe $name is attached" sh -c "faultline ctl list | grep -E '^$name +[a-z]+ +attached'"
done
bash -c 'exec 3<>/dev/tcp/127.0.0.1/9464; printf "GET /metrics HTTP/1.0\r\n\r\n" >&3; cat <&3' > /tmp/metrics
for name in root-private home tmp; do
    check "a hit of $name is counted" \
        grep -E "^faultline_probe_hits_total\{name=\"$name\".* [1-9]" /tmp/metrics
done
check "events are in the file" grep -q '"type":"event"' /var/log/faultline/events.json

pid=$(main_pid)
probe later 'libc:getenv' count >> $conf
check "a reload succeeds" systemctl reload faultline
check "and has attached what is new" listed later
check "in the same process" [ "$(main_pid)" = "$pid" ]
cp $conf /tmp/good
echo 'nonsense = 1' >> $conf
check "a reload of a wrong file fails" fails systemctl reload faultline
check "and changes nothing" listed later
check "and leaves it running" property ActiveState active
show systemctl status --no-pager --lines 4 faultline
cp /tmp/good $conf
check "a reload of the right one succeeds again" systemctl reload faultline

mkdir -p /run/systemd/system/faultline.service.d
printf '[Service]\nWatchdogSec=6s\n' > /run/systemd/system/faultline.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart faultline
pid=$(main_pid)
sleep 15
check "the watchdog leaves it alone while it is well" [ "$(main_pid)" = "$pid" ]
kill -STOP "$pid"
check "the watchdog ends it when it hangs" within 60 property NRestarts 1
check "and it is ready again" within 60 property ActiveState active
check "as another process" [ "$(main_pid)" != "$pid" ]
check "the journal says so" says "Watchdog timeout" journalctl -u faultline --no-pager
kill -KILL "$(main_pid)"
check "killed, it comes back" within 60 property NRestarts 2
check "and is ready" within 60 property ActiveState active
check "with its probes" within 20 listed later

before=$SECONDS
check "it stops" systemctl stop faultline
check "in good time" [ $((SECONDS - before)) -lt 20 ]
check "cleanly" property Result success
show journalctl -u faultline --no-pager --output cat --lines 8
check "nothing of it is left in /run" [ ! -e /run/faultline ]

echo 'nonsense = 1' >> $conf
check "a wrong file keeps it from starting" fails systemctl start faultline
systemctl stop faultline
check "and the journal says where" says "faultline.toml:" journalctl -u faultline --no-pager --lines 20
cp /tmp/good $conf
systemctl reset-failed faultline 2> /dev/null

check "it starts once more" systemctl start faultline
check "the package is purged while it runs" dpkg --purge faultline
check "which ends it" within 10 fails pidof faultline
check "and leaves no unit" [ ! -e /usr/lib/systemd/system/faultline.service ]
check "and no events" [ ! -e /var/log/faultline ]
echo "check: done"
sync
systemctl poweroff
