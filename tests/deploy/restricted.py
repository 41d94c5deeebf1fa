"""The Pod Security Standard *restricted*, which holds *baseline*, rule by rule.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
}  # fmt: skip
_SECCOMP = {"RuntimeDefault", "Localhost"}
_SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}

_Table = dict[str, Any]


def violations(pod: _Table) -> list[str]:
    """What a pod's spec does that it must not do, a line each."""
    return [*_of_pod(pod), *(line for each in _containers(pod) for line in _of_one(each, pod))]


def _containers(pod: _Table) -> list[_Table]:
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in pod.get(kind, [])]


def _of_pod(pod: _Table) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield key
    for volume in pod.get("volumes", []):
        if not volume.keys() - {"name"} <= _VOLUMES:
            yield f"volume {volume['name']}"
    context = pod.get("securityContext", {})
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from _either(context, "pod")


def _of_one(container: _Table, pod: _Table) -> Iterator[str]:
    name = container["name"]
    own = container.get("securityContext", {})
    both = {**pod.get("securityContext", {}), **own}
    capabilities = own.get("capabilities", {})
    probes = ("livenessProbe", "readinessProbe", "startupProbe")
    asked = [action for probe in probes for action in container.get(probe, {}).values()]
    breaches = {
        "privileged": own.get("privileged"),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
        "runAsNonRoot": both.get("runAsNonRoot") is not True,
        "seccompProfile": both.get("seccompProfile", {}).get("type") not in _SECCOMP,
        "capabilities are kept": "ALL" not in capabilities.get("drop", []),
        "capabilities are added": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
        "procMount": own.get("procMount", "Default") != "Default",
        "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
        "host of a probe": any(isinstance(each, dict) and each.get("host") for each in asked),
    }
    yield from (f"{name}: {breach}" for breach, there in breaches.items() if there)
    yield from _either(own, name)


def _either(context: _Table, name: str) -> Iterator[str]:
    """What may stand at the pod and at the container."""
    if context.get("runAsUser") == 0:
        yield f"{name}: runAsUser"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{name}: hostProcess"
    if context.get("appArmorProfile", {}).get("type") == "Unconfined":
        yield f"{name}: appArmorProfile"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type") not in _SELINUX or selinux.get("user") or selinux.get("role"):
        yield f"{name}: seLinuxOptions"
