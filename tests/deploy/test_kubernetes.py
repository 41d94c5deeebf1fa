"""config/kubernetes: what kustomize makes of it, held against schemas and rules, and started."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import psutil
import pytest
import yaml

from refresher import __version__, config
from refresher.daemon import STOP_SECONDS
from tests.deploy import manifests
from tests.deploy.container import require_namespaces, started, stopped
from tests.deploy.inside import CREDENTIALS, Inside, answer, wait_until_ready
from tests.deploy.manifests import FOLDER, built, only, ours, pod
from tests.deploy.restricted import violations
from tests.peers import ROOT, free_port, require
from tests.postgres import Cluster
from tests.world import PATIENCE, wait_for

BASE, ALONE, BESIDE = FOLDER / "base", FOLDER / "example", FOLDER / "example-sidecar"
RULES = ROOT / "config" / "prometheus" / "rules.yaml"
COMPONENTS = sorted(
    path.parent.name
    for path in FOLDER.glob("*/kustomization.yaml")
    if yaml.safe_load(path.read_text())["kind"] == "Component"
    and path.parent.name != "sidecar"  # which goes with a Deployment of somebody's
)
#: What is no kind of Kubernetes itself, and has no schema in it.
OPERATOR = "monitoring.coreos.com/v1"
#: Those that are looked after, from the oldest to the newest of which there is a schema.
VERSIONS = ("1.34", "1.35", "1.36", "1.37")

_MIB = 1024 * 1024
_Table = dict[str, Any]


def composed(folder: Path, *components: str) -> list[_Table]:
    """The base with some components."""
    document = {
        "resources": [os.path.relpath(BASE, folder)],
        "components": [os.path.relpath(FOLDER / name, folder) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document))
    return built(folder)


@pytest.fixture
def inside() -> Iterator[Inside]:
    """A world for containers."""
    with Inside() as made:
        yield made


# --- what kustomize makes of it ----------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", [BASE, ALONE, BESIDE], ids=lambda path: path.name)
def test_everything_is_valid(folder: Path, version: str) -> None:
    """By the schemas of each version of Kubernetes, which let no unknown key pass."""
    for each in built(folder):
        if each["apiVersion"] != OPERATOR:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_goes_with_the_base(name: str, tmp_path: Path) -> None:
    """And what comes of it is valid."""
    after = composed(tmp_path, name)
    assert after != built(BASE)
    for each in after:
        if each["apiVersion"] != OPERATOR:
            kubernetes_validate.validate(each, VERSIONS[-1], strict=True)


def test_a_wrong_manifest_is_found() -> None:
    """The schemas are not empty: a key too many and a number of the wrong kind are refused."""
    deployment = only(built(BASE), "Deployment")
    for path, value in (("replica", 1), ("replicas", "one")):
        wrong = copy.deepcopy(deployment)
        wrong["spec"][path] = value
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_sidecar_is_the_container_of_the_base() -> None:
    """Word for word, but for the image's name; the app comes first and is as it was."""
    spec = pod(only(built(BESIDE), "Deployment"))
    alone, beside = ours(pod(only(built(ALONE), "Deployment"))), ours(spec)
    assert alone == beside
    (app,) = yaml.safe_load_all((BESIDE / "my-app.yaml").read_text())
    assert spec["containers"][0] == pod(app)["containers"][0]
    assert [each for each in spec["volumes"] if each in pod(app)["volumes"]]
    rest = {key: value for key, value in spec.items() if key not in ("containers", "volumes")}
    assert rest == {}


def test_a_deployment_without_the_label_is_left_alone(tmp_path: Path) -> None:
    """Of several in one kustomization, too."""
    text = (BESIDE / "my-app.yaml").read_text()
    other = text.replace("my-app", "other").replace("    refresher: sidecar\n", "    a: b\n")
    (tmp_path / "apps.yaml").write_text(f"{text}---\n{other}")
    document = {
        "resources": ["apps.yaml"],
        "components": [os.path.relpath(FOLDER / "sidecar", tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(document))
    one, two = sorted(built(tmp_path), key=lambda each: each["metadata"]["name"])
    assert len(pod(one)["containers"]) == 2
    assert two == yaml.safe_load(other)


def test_the_image_is_named_once() -> None:
    """By `images` of the examples, under this release."""
    for folder in (ALONE, BESIDE):
        image = ours(pod(only(built(folder), "Deployment")))["image"]
        assert image == f"registry.example.com/refresher:{__version__}"


def test_the_configuration_is_mounted_under_its_hash() -> None:
    """So that a changed one is rolled out; and it is one that refresher takes."""
    for folder in (BASE, ALONE, BESIDE):
        objects = built(folder)
        found = only(objects, "ConfigMap")
        (volume,) = (
            each for each in pod(only(objects, "Deployment"))["volumes"] if "configMap" in each
        )
        assert re.fullmatch(r"refresher-[a-z0-9]{10}", found["metadata"]["name"])
        assert volume["configMap"]["name"] == found["metadata"]["name"]
        parsed = config.parse(
            found["data"]["refresher.toml"], "refresher.toml", {"HOME": "/"}, follow="environment"
        )
        assert parsed.daemon.address == ("0.0.0.0", 9478)


# --- identity, secrets, probes, security -------------------------------------------------------


def test_irsa_and_gke_are_annotations_of_the_service_account(tmp_path: Path) -> None:
    """No key of either cloud is mounted anywhere, and the pod runs under that account."""
    objects = composed(tmp_path, "irsa", "gke")
    account = only(objects, "ServiceAccount")
    assert account["metadata"]["annotations"] == {
        "eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/fal-pull",
        "eks.amazonaws.com/sts-regional-endpoints": "true",
        "iam.gke.io/gcp-service-account": "fal-pull@my-project.iam.gserviceaccount.com",
    }
    spec = pod(only(objects, "Deployment"))
    assert spec["serviceAccountName"] == account["metadata"]["name"]
    assert spec["automountServiceAccountToken"] is False
    (secret,) = (each["secret"] for each in spec["volumes"] if "secret" in each)
    assert secret["secretName"] == "refresher"


@pytest.mark.parametrize("folder", [ALONE, BESIDE], ids=lambda path: path.name)
def test_secrets_are_files(folder: Path) -> None:
    """No variable holds one; each reference of the configuration lies where the Secret does."""
    objects = built(folder)
    container = ours(pod(only(objects, "Deployment")))
    assert [each["name"] for each in container["env"]] == [
        "REFRESHER_CONFIG", "STATE_DIRECTORY", "TMPDIR",
    ]  # fmt: skip
    assert "envFrom" not in container
    assert "Secret" not in {each["kind"] for each in objects}
    text = only(objects, "ConfigMap")["data"]["refresher.toml"]
    assert re.findall(r'file = "(.*)/.*"', text) == [CREDENTIALS] * 2
    assert " env = " not in text


@pytest.mark.parametrize("folder", [BASE, ALONE, BESIDE], ids=lambda path: path.name)
def test_the_probes_ask_what_a_restart_would_mend(folder: Path) -> None:
    """The strict question is for people and gates, not for a kubelet."""
    container = ours(pod(only(built(folder), "Deployment")))
    asked = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}
    assert asked == {
        "livenessProbe": {"path": "/livez", "port": "refresher"},
        "readinessProbe": {"path": "/readyz", "port": "refresher"},
        "startupProbe": {"path": "/livez", "port": "refresher"},
    }
    assert container["ports"] == [{"name": "refresher", "containerPort": 9478}]


def test_the_grace_period_is_longer_than_refresher_needs() -> None:
    """Its own deadline, that of the notices and that of the server."""
    assert pod(only(built(BASE), "Deployment"))["terminationGracePeriodSeconds"] > STOP_SECONDS + 5


@pytest.mark.parametrize("folder", [BASE, ALONE], ids=lambda path: path.name)
def test_pods_are_restricted(folder: Path) -> None:
    """As the strictest Pod Security Standard asks."""
    assert violations(pod(only(built(folder), "Deployment"))) == []


def test_the_sidecar_is_restricted_by_itself() -> None:
    """Whatever the pod around it says: not one of its violations is ours."""
    spec = pod(only(built(BESIDE), "Deployment"))
    assert {line.partition(":")[0] for line in violations(spec)} == {"my-app"}
    spec["containers"] = [ours(spec)]
    assert violations(spec) == []


def _drop(container: _Table, key: str) -> None:
    del container["securityContext"][key]


@pytest.mark.parametrize(
    ("line", "spoil"),
    [
        ("hostNetwork", lambda spec, _: spec.update(hostNetwork=True)),
        ("volume x", lambda spec, _: spec["volumes"].append({"name": "x", "hostPath": {}})),
        ("refresher: privileged", lambda _, own: own["securityContext"].update(privileged=True)),
        ("refresher: runAsNonRoot", lambda _, own: _drop(own, "runAsNonRoot")),
        ("refresher: runAsUser", lambda _, own: own["securityContext"].update(runAsUser=0)),
        ("refresher: seccompProfile", lambda _, own: _drop(own, "seccompProfile")),
        ("refresher: capabilities are kept", lambda _, own: _drop(own, "capabilities")),
        (
            "refresher: capabilities are added",
            lambda _, own: own["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
        ),
        (
            "refresher: allowPrivilegeEscalation",
            lambda _, own: _drop(own, "allowPrivilegeEscalation"),
        ),
        ("refresher: hostPort", lambda _, own: own["ports"][0].update(hostPort=1)),
    ],
)
def test_each_breach_of_the_standard_is_found(
    line: str, spoil: Callable[[_Table, _Table], None]
) -> None:
    """The rules can fail."""
    spec = copy.deepcopy(pod(only(built(BASE), "Deployment")))
    spoil(spec, next(iter(spec["containers"])))
    assert violations(spec) == [line]


# --- network, disruption, monitoring -----------------------------------------------------------


def selects(selector: _Table, labels: _Table) -> bool:
    """Whether `matchLabels`, which must not be empty, fit."""
    wanted: _Table = selector.get("matchLabels", selector)
    return bool(wanted) and wanted.items() <= labels.items()


def test_whatever_selects_the_pods_selects_them_alone() -> None:
    """An empty selector would be every pod of the namespace."""
    objects = built(ALONE)
    labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for kind, key in (
        ("Deployment", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
        ("Service", "selector"),
    ):
        assert selects(only(objects, kind)["spec"][key], labels), kind
    assert selects(
        only(objects, "ServiceMonitor")["spec"]["selector"],
        only(objects, "Service")["metadata"]["labels"],
    )


def test_the_network_is_what_it_needs(tmp_path: Path) -> None:
    """In: Prometheus, to the one port. Out: names and HTTPS; metadata and database where needed."""

    def out(objects: list[_Table]) -> list[int]:
        rules = only(objects, "NetworkPolicy")["spec"]["egress"]
        return [port["port"] for rule in rules for port in rule["ports"]]

    policy = only(built(BASE), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": "refresher"}]
    assert len(rule["from"]) == 1
    assert out(built(BASE)) == [53, 53, 443]
    assert out(composed(tmp_path, "gke", "database")) == [53, 53, 443, 80, 988, 5432]


def test_a_node_can_be_drained_and_one_of_two_goes_on(tmp_path: Path) -> None:
    """A budget that lets nobody leave would hold up the node of a single replica."""
    budget = only(built(BASE), "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert only(built(BASE), "Deployment")["spec"]["replicas"] == 1
    two = only(composed(tmp_path, "database"), "Deployment")["spec"]
    assert two["replicas"] == 2
    assert two["strategy"] == {"type": "RollingUpdate"}


def test_a_file_of_state_has_one_owner(tmp_path: Path) -> None:
    """The old pod is gone before the new one begins."""
    spec = only(composed(tmp_path, "volume"), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    (claim,) = (each for each in pod({"spec": spec})["volumes"] if "persistentVolumeClaim" in each)
    assert claim.keys() == {"name", "persistentVolumeClaim"}


def test_the_monitor_scrapes_under_the_name_that_the_alerts_know() -> None:
    """`job` becomes the value of that label of the Service."""
    objects = built(ALONE)
    service, monitor = only(objects, "Service"), only(objects, "ServiceMonitor")["spec"]
    jobs = set(re.findall(r'job="(\w+)"', RULES.read_text()))
    assert {service["metadata"]["labels"][monitor["jobLabel"]]} == jobs
    (endpoint,) = monitor["endpoints"]
    (port,) = service["spec"]["ports"]
    assert endpoint["port"] == port["name"]
    assert port["targetPort"] == ours(pod(only(objects, "Deployment")))["ports"][0]["name"]


def test_the_rules_are_those_of_the_one_file(tmp_path: Path) -> None:
    """Generated, in step, and good for promtool after kustomize had them in its hands."""
    script = FOLDER / "generate_rules.py"
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert made.stdout == (FOLDER / "monitoring" / "prometheusrule.yaml").read_text()

    rule = only(built(ALONE), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    done = subprocess.run(
        [require("promtool"), "check", "rules", tmp_path / "rules.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --- started as they are -----------------------------------------------------------------------


def _probe(container: _Table, name: str, port: int) -> str:
    """What the kubelet asks."""
    asked = container[name]["httpGet"]
    assert asked["port"] == container["ports"][0]["name"]
    return f"http://127.0.0.1:{port}{asked['path']}"


def assert_fits(resident: int, resources: _Table) -> None:
    """Within what it asks for, and half of what it may have."""
    asked, limit = (int(resources[key]["memory"][:-2]) for key in ("requests", "limits"))
    assert {resources[key]["memory"][-2:] for key in ("requests", "limits")} == {"Mi"}
    assert resident < asked * _MIB
    assert resident < limit * _MIB / 2
    assert "cpu" not in resources["limits"]


@pytest.mark.parametrize("folder", [ALONE, BESIDE], ids=lambda path: path.name)
def test_its_container_becomes_ready(folder: Path, inside: Inside, tmp_path: Path) -> None:
    """Its command, variables, mounts and user, in a read-only file system without capabilities."""
    require_namespaces()
    objects = built(folder)
    spec = pod(only(objects, "Deployment"))
    text = inside.adapted(only(objects, "ConfigMap")["data"]["refresher.toml"])
    files = {
        "refresher-config": {"refresher.toml": text},
        "refresher-credentials": inside.credentials,
    }
    container = manifests.container(spec, files, tmp_path, environ=inside.leading_in)
    with started(container, tmp_path / "container") as process:
        log = tmp_path / "container" / "log"
        wait_until_ready(_probe(ours(spec), "readinessProbe", inside.port), process, log)
        wait_for(lambda: inside.secret is not None, "a publish")
        assert answer(_probe(ours(spec), "livenessProbe", inside.port)) == 200
        assert answer(_probe(ours(spec), "startupProbe", inside.port)) == 200
        seen = psutil.Process(process.pid)
        assert_fits(seen.memory_info().rss, ours(spec)["resources"])
        assert set(seen.uids()) == {65532}
        assert set(seen.gids()) == {65532}
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert set(re.findall(r"^Cap(?:Prm|Eff|Bnd):\s+(\w+)", status, re.MULTILINE)) == {"0" * 16}
        assert "NoNewPrivs:\t1" in status
        code, seconds = stopped(process, PATIENCE)
        assert code == 0
        grace = spec.get("terminationGracePeriodSeconds", 30)
        assert seconds < grace


def test_two_replicas_with_a_database_are_both_ready(
    cluster: Cluster, inside: Inside, tmp_path: Path
) -> None:
    """Pods of the component `database`, on a real PostgreSQL: what one writes the other sees."""
    require_namespaces()
    objects = composed(tmp_path, "database")
    spec = pod(only(objects, "Deployment"))
    (reference,) = (each for each in ours(spec)["env"] if "valueFrom" in each)
    assert reference["valueFrom"] == {"secretKeyRef": {"name": "refresher", "key": "database-url"}}
    text = only(objects, "ConfigMap")["data"]["refresher.toml"]
    text = text.replace("[daemon]", f'[daemon]\nstate = {{ env = "{reference["name"]}" }}')
    database, other = free_port(), free_port()
    url = f"postgresql://refresher@127.0.0.1:{database}/postgres"
    with cluster.running(database), ExitStack() as pods:
        for replica, port in enumerate((inside.port, other)):
            here = tmp_path / str(replica)
            adapted = inside.adapted(text).replace(f":{inside.port}", f":{port}")
            files = {
                "refresher-config": {"refresher.toml": adapted},
                "refresher-credentials": inside.credentials,
            }
            environ = {**inside.leading_in, reference["name"]: url}
            container = manifests.container(spec, files, here, environ=environ)
            process = pods.enter_context(started(container, here / "container"))
            probe = _probe(ours(spec), "readinessProbe", port)
            wait_until_ready(probe, process, here / "container" / "log")
        wait_for(lambda: inside.secret is not None, "a publish")
        for port in (inside.port, other):
            api = f"http://127.0.0.1:{port}/api/v1/targets"
            wait_for(lambda: httpx.get(api).json()["targets"][0]["valid"], "the same")  # noqa: B023
