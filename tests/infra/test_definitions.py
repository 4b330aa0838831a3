"""The cluster and server definitions against the schemas that are to be had here, our own and others' command lines, and the
project's versions. No cluster and no container runs here."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import definitions
import kubernetes_validate
import pytest
from definitions import COMPOSE, CONTAINERFILE, INFRA, KUBERNETES, PINS, PROJECT, RAY_UP, WITH_COMMANDS, documents, of_kind

KUBERNETES_VERSION = "1.30"  # and newer
IMAGE = f"likeness:{PROJECT['version']}"
OTHERS_IMAGES = {"postgres:17", "chrislusf/seaweedfs:3.97"}
# the names that KubeRay's ray.io/v1 knows (its definitions were checked whole against 1.6's by hand, see docs/cluster.md)
JOB_KEYS = {"activeDeadlineSeconds", "backoffLimit", "clusterSelector", "entrypoint", "entrypointNumCpus", "rayClusterSpec",
            "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend",
            "ttlSecondsAfterFinished"}  # fmt: skip
CLUSTER_KEYS = {"authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
                "rayVersion", "suspend", "workerGroupSpecs"}  # fmt: skip
HEAD_KEYS = {"headService", "rayStartParams", "serviceType", "template"}
GROUP_KEYS = {"groupName", "idleTimeoutSeconds", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas",
              "template"}  # fmt: skip


def valid(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.name)
def test_kubernetes_takes_the_documents(file: Path):
    found = documents(file)
    assert found
    for document in found:
        if document["apiVersion"] != "ray.io/v1":
            valid(document)
        for pod in definitions.pod_specs(document):
            metadata = {"name": "pod", **pod.get("metadata", {})}
            valid({"apiVersion": "v1", "kind": "PodTemplate", "metadata": metadata, "template": pod})
        assert document["metadata"]["labels"]["app.kubernetes.io/part-of"] == "likeness"


def test_the_schema_does_refuse():
    document = copy.deepcopy(dict(of_kind("Deployment"))["mlflow.yaml"])
    document["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(document)


@pytest.mark.parametrize("document", [document for _, document in of_kind("RayJob", "RayCluster")])
def test_ray_clusters_are_whole(document: dict[str, Any]):
    cluster = definitions.ray_cluster(document)
    if document["kind"] == "RayJob":
        assert set(document["spec"]) <= JOB_KEYS
    assert set(cluster) <= CLUSTER_KEYS
    assert cluster["rayVersion"] == PINS["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]
    assert set(head) <= HEAD_KEYS
    assert head["rayStartParams"] == {"num-cpus": "0"}
    ports = {port["name"]: port["containerPort"] for port in head["template"]["spec"]["containers"][0]["ports"]}
    assert ports == {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= GROUP_KEYS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert bool(cluster.get("enableInTreeAutoscaling")) or group["minReplicas"] == group["maxReplicas"], "nobody would scale it"
    claims = {document["metadata"]["name"] for _, document in of_kind("PersistentVolumeClaim")}
    for pod in definitions.pod_specs(document):
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"], "Ray takes its cores from the limits"
        assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "60"} in container["env"]
        assert pod["spec"]["securityContext"]["runAsUser"] == 1000
        assert {volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"]["volumes"]} <= claims
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["spec"]["volumes"]}
        gpus = "nvidia.com/gpu" in container["resources"]["limits"]
        assert gpus == bool(pod["spec"].get("tolerations"))


@pytest.mark.parametrize(("name", "kind", "resource"), [
    ("build.yaml", "RayJob", "cpu"), ("train.yaml", "RayJob", "nvidia.com/gpu"), ("cluster.yaml", "RayCluster", "cpu"),
])
def test_workers_fill_the_pods(name: str, kind: str, resource: str):
    document = dict(of_kind(kind))[name]
    (words,) = [words for words in definitions.commands(INFRA / "kubernetes" / name) if "--workers" in words]
    workers = int(words[words.index("--workers") + 1])
    groups = definitions.ray_cluster(document)["workerGroupSpecs"]
    has = next(group for group in groups if group["groupName"] == ("cpu" if resource == "cpu" else "gpu"))
    assert workers == definitions.workers_of(has, resource)
    batch = [int(word.removeprefix("loop.batch_size=")) for word in words if word.startswith("loop.batch_size=")]
    assert all(size % workers == 0 for size in batch)


@pytest.mark.parametrize("file", WITH_COMMANDS, ids=lambda file: file.name)
def test_our_command_line_takes_every_command(file: Path):
    found = definitions.commands(file)
    for words in found:
        definitions.parse(words)
    if file.name in ("build.yaml", "train.yaml"):
        (job,) = documents(file)
        assert job["spec"]["entrypoint"].split()[1:] in found


def test_a_command_that_is_not_ours_would_be_seen(tmp_path: Path):
    (tmp_path / "page.md").write_text("run `likeness data build talks --wrokers 3`")
    (words,) = definitions.commands(tmp_path / "page.md")
    with pytest.raises(Exception, match="No such option"):
        definitions.parse(words)


def test_the_image_is_that_of_this_version_everywhere():
    assert definitions.images() - OTHERS_IMAGES == {IMAGE}
    assert all(IMAGE in found for file in WITH_COMMANDS for found in re.findall(r"\blikeness:\d[\w.]*", file.read_text()))


def test_the_container_has_what_the_project_is_made_of():
    text = CONTAINERFILE.read_text()
    (python,) = re.findall(r"^FROM python:(\S+)-slim$", text, re.MULTILINE)
    major, minor = python.split(".")
    assert PROJECT["requires-python"] == f">={python},<{major}.{int(minor) + 1}"
    copied = {word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]}
    project = tomllib.loads((definitions.ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert copied == packages | {"pyproject.toml", "constraints.txt", PROJECT["readme"], *PROJECT["license-files"]}
    assert all((definitions.ROOT / name).exists() for name in copied)
    (extras,) = re.findall(r'pip install .*-c constraints.txt .*"\.\[(\w+)\]"', text)
    assert extras in PROJECT["optional-dependencies"]


def test_ray_up_takes_its_file():
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.scripts.scripts import start

    (config,) = documents(RAY_UP)
    validate_config(prepare_config(copy.deepcopy(config)))
    broken = copy.deepcopy(config) | {"head_node_typ": "x"}
    with pytest.raises(Exception, match="head_node_typ"):
        validate_config(prepare_config(broken))
    for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        program, verb, *words = command.split()
        assert (program, verb) == ("ray", "start")
        start.make_context("start", words)
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]


def test_mlflow_takes_its_commands():
    from mlflow.cli import server

    services = documents(COMPOSE)[0]["services"]
    (pod,) = definitions.pod_specs(dict(of_kind("Deployment"))["mlflow.yaml"])
    (container,) = pod["spec"]["containers"]
    asked = []
    for program, verb, *words in (services["mlflow"]["command"], container["command"]):
        assert (program, verb) == ("mlflow", "server")
        asked.append(server.make_context("server", words).params)
    assert {params["port"] for params in asked} == {5000}
    assert all("mlflow:*" in params["allowed_hosts"].split(",") for params in asked)
    used = {document["value"] for _, cluster in of_kind("RayJob", "RayCluster") for each in definitions.pod_specs(cluster)
            for document in each["spec"]["containers"][0]["env"] if document["name"] == "MLFLOW_TRACKING_URI"}  # fmt: skip
    assert used == {"http://mlflow:5000"}


def test_services_of_the_compose_file_fit_together():
    (compose,) = documents(COMPOSE)
    assert set(compose) <= {"name", "services", "configs", "volumes", "networks", "secrets"}
    for service in compose["services"].values():
        assert set(service) <= {"image", "build", "restart", "command", "environment", "volumes", "ports", "healthcheck", "configs",
                                "depends_on"}  # fmt: skip
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] in ("service_started", "service_healthy", "service_completed_successfully")
            assert how["condition"] != "service_healthy" or "healthcheck" in compose["services"][other]
        assert {config["source"] for config in service.get("configs", [])} <= set(compose["configs"])
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(compose["volumes"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    build = compose["services"]["mlflow"]["build"]
    context = (COMPOSE.parent / build["context"]).resolve()
    assert (context / build["dockerfile"]).resolve() == CONTAINERFILE
    header = COMPOSE.read_text().partition("\nname:")[0].replace("\\n", " ")
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert asked == set(re.findall(r"(\w+)=%?\w", header.partition("printf")[2].partition("\n")[0]))


def test_the_parts_of_mlflow_on_kubernetes_find_each_other():
    services = {document["metadata"]["name"]: document["spec"] for _, document in of_kind("Service")}
    text = (INFRA / "kubernetes" / "mlflow.yaml").read_text()
    keys = set(re.findall(r"--from-literal=([\w-]+)=", text))
    used = set()
    for _, document in of_kind("Deployment", "StatefulSet"):
        (pod,) = definitions.pod_specs(document)
        (container,) = pod["spec"]["containers"]
        labels = pod["metadata"]["labels"]
        assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
        service = services[document["metadata"]["name"]]
        assert service["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["ports"]} <= {port["name"] for port in container["ports"]}
        used |= {entry["valueFrom"]["secretKeyRef"]["key"] for entry in container["env"] if "valueFrom" in entry}
    assert used == keys
    assert "@mlflow-postgres:5432/" in text
    assert "mlflow-postgres" in services
