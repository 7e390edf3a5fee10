"""The system around the hardware: kernel, C library, container, settings that cost speed."""

from __future__ import annotations

from kt_cli.core.machine import System
from kt_cli.probe.found import Found
from kt_cli.probe.host import Host

# Marker file → kind of container.
MARKERS = {
    "/.dockerenv": "docker",
    "/run/.containerenv": "podman",
    "/var/run/secrets/kubernetes.io": "kubernetes",
}


def read(host: Host, gpus: Found) -> System:
    balancing = host.number("/proc/sys/kernel/numa_balancing")
    return System(
        os=_release(host.text("/etc/os-release") or host.text("/usr/lib/os-release")),
        kernel=host.text("/proc/sys/kernel/osrelease"),
        glibc=host.glibc,
        python=host.python,
        container=container(host),
        governor=host.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        numa_balancing=None if balancing is None else balancing > 0,
        driver=gpus.driver,
        cuda=gpus.cuda,
    )


def container(host: Host) -> str:
    """docker, podman, kubernetes, wsl, lxc, systemd-nspawn, … or empty on a plain system."""
    if host.env.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    for marker, kind in MARKERS.items():
        if host.exists(marker):
            return kind
    if "microsoft" in host.text("/proc/sys/kernel/osrelease").lower():
        return "wsl"
    return host.text("/run/systemd/container") or host.env.get("container", "")


def _release(text: str) -> str:
    for line in text.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'")
    return ""
