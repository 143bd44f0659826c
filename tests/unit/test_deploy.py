"""What is in deploy/: linted, and as far as no container engine is needed, run."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import trustme
import yaml

from tests.servers.nginx import _free_port, _program, _user
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parent.parent.parent
DEPLOY: Final = ROOT / "deploy"
BIN: Final = Path(sys.executable).parent
DOCKERFILE: Final = DEPLOY / "docker" / "Dockerfile"
UNIT: Final = DEPLOY / "systemd" / "upload-kit.service"
NGINX: Final = DEPLOY / "nginx"
COMPOSE: Final = DEPLOY / "compose" / "compose.yaml"
ONE: Final = DEPLOY / "kubernetes" / "one"
SEVERAL: Final = DEPLOY / "kubernetes" / "several"
KUBERNETES_VERSIONS: Final = ("1.31", "1.37")


def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=60, **options
    )


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, each with what follows it on its lines."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line[:1] != "#"]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
        if word
    ]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions():
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


def values_of(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in stage if name == word]


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    """The image is made as those who made many of them advise."""
    result = run(BIN / "hadolint", "--failure-threshold", "info", DOCKERFILE)
    assert result.returncode == 0, result.stdout


def test_the_image_runs_as_nobody_in_particular_without_tools() -> None:
    """The last stage is slim, not root, installs nothing, and checks its health."""
    build, final = stages()
    assert "-slim" in values_of(final, "FROM")[0]
    assert values_of(final, "USER") == ["10001:10001"]
    commands = " ".join(values_of(final, "RUN"))
    assert re.search(r"\b(apt-get|apk|gcc|pip install)\b", commands) is None
    assert "pip uninstall" in commands
    assert values_of(final, "COPY") == [
        "--from=build /opt/upload_kit /opt/upload_kit",
    ]
    assert values_of(build, "COPY")
    assert "/healthz" in values_of(final, "HEALTHCHECK")[0]


def test_what_the_image_needs_reaches_its_builder() -> None:
    """Nothing that the build copies is ignored, and nothing else is sent along."""
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    words = " ".join(values_of(stages()[0], "COPY")).split()
    copied = {word for word in words if not word.startswith(".")}
    assert let_through == copied
    for name in copied:
        assert (ROOT / name).exists()


class Image:
    """
    What the Dockerfile makes, without a container: the same commands in a folder.

    Args:
        folder: Where its /src, /opt and /data are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._places = {
            "/opt/upload_kit": str(folder / "opt"),
            "8000": str(self.port),
            "0.0.0.0": "127.0.0.1",
            '"/data"': json.dumps(str(folder / "data")),
        }

    def place(self, text: str) -> str:
        """Return a command of the image as it is here."""
        for there, here in self._places.items():
            text = text.replace(there, here)
        return text

    def build(self) -> None:
        """Copy and run what the first stage copies and runs."""
        source = self.folder / "src"
        source.mkdir()
        (self.folder / "data").mkdir()
        build = stages()[0]
        for copied in values_of(build, "COPY"):
            *names, _ = copied.split()
            for name in names:
                _copy(ROOT / name, source / name)
        for command in values_of(build, "RUN"):
            words = re.sub(r"\bpython -m", f"{sys.executable} -m", self.place(command))
            # It takes the cache of this machine, where there is one.
            words = words.replace("--no-cache-dir", "")
            result = run("sh", "-ec", words, cwd=source)
            if re.search(r"Failed to establish|Temporary failure", result.stderr):
                pytest.skip("needs the package index")
            assert result.returncode == 0, result.stderr

    def environment(self) -> dict[str, str]:
        """Return what the last stage sets, and nothing of this process."""
        text = " ".join(values_of(stages()[-1], "ENV"))
        pairs = (word.split("=", 1) for word in shlex.split(self.place(text)))
        set_here = dict(pairs)
        path = set_here.pop("PATH").replace("$PATH", os.defpath)
        return {**set_here, "PATH": path, "HOME": str(self.folder)}

    def start(self) -> subprocess.Popen[bytes]:
        """Run the image's command."""
        words = json.loads(self.place(values_of(stages()[-1], "CMD")[0]))
        environment = self.environment()
        program = shutil.which(words[0], path=environment["PATH"])
        assert program is not None
        return subprocess.Popen(
            [program, *words[1:]],
            env=environment,
            cwd=self.folder / "data",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def is_healthy(self) -> bool:
        """Run the image's health check."""
        check = values_of(stages()[-1], "HEALTHCHECK")[0].partition("CMD ")[2]
        words = json.loads(self.place(check))
        program = self.folder / "opt" / "bin" / words[0]
        return run(program, *words[1:], env=self.environment()).returncode == 0


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=_caches)
    else:
        shutil.copy(source, target)


def _caches(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


@pytest.mark.timeout(120)
def test_the_images_command_serves_from_a_clean_environment(tmp_path: Path) -> None:
    """
    What the image installs is enough to serve, and its health check tells the truth.

    The commands of both stages run here, on this machine's Python.
    """
    image = Image(tmp_path)
    image.build()
    assert not (tmp_path / "opt" / "bin" / "pip").exists()
    assert not image.is_healthy()
    _check_that_extras_are_named(tmp_path / "opt" / "bin" / "python", tmp_path)
    process = image.start()
    try:
        assert process.stdout is not None
        assert b"Ready at" in process.stdout.readline()
        assert image.is_healthy()
        url = f"http://127.0.0.1:{image.port}/upload/foundation?name=a.bin"
        request = urllib.request.Request(url, data=b"hello", method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.load(answer)["size"] == 5
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    # Whoever collects logs of containers gets one JSON object a line.
    logged = [json.loads(line) for line in errors.splitlines()]
    assert any("upload_id" in one and "request_id" in one for one in logged)
    stored = [path.read_bytes() for path in (tmp_path / "data").rglob("a.bin*")]
    assert b"hello" in stored


def _check_that_extras_are_named(python: Path, folder: Path) -> None:
    """Fail unless a plain installation says which extra brings what is missing."""
    script = "import upload_kit as uk\ntry: uk.sessions()\nexcept uk.MissingExtra as e:"
    done = run(
        python,
        "-c",
        f"{script} print(e)",
        env={"UPLOAD_KIT_SESSION_DIR": str(folder / "state"), "HOME": str(folder)},
        cwd=folder,
    )
    assert "upload_kit[notebook]" in done.stdout, done.stderr


def test_compose_has_a_file_that_its_schema_takes() -> None:
    """Every key of the compose file is one that Compose knows."""
    schema = ["--builtin-schema", "vendor.compose-spec"]
    result = run(BIN / "check-jsonschema", *schema, COMPOSE)
    assert result.returncode == 0, result.stdout


def test_compose_names_what_is_there_or_is_said_to_be_made() -> None:
    """Files that the compose file mounts exist, or its comment says to make them."""
    compose = documents(COMPOSE)[0]
    named = {**compose["configs"], **compose["secrets"]}
    comment = COMPOSE.read_text().partition("name:")[0]
    for one in named.values():
        name = str(one["file"]).removeprefix("./")
        assert (COMPOSE.parent / name).exists() or name in comment
    server = compose["services"]["server"]
    build = (COMPOSE.parent / server["build"]["context"]).resolve()
    assert (build / server["build"]["dockerfile"]).is_file()
    assert server["read_only"]
    assert server["cap_drop"] == ["ALL"]
    assert "ports" not in server


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=f"{path.parent.name}-{path.stem}")
        for path in sorted(DEPLOY.glob("kubernetes/*/*.yaml"))
        if path.name != "kustomization.yaml"
    ],
)
def test_kubernetes_knows_every_field(path: Path, version: str) -> None:
    """The manifests are valid by the API's own schemas, without unknown fields."""
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def kustomized() -> dict[str, dict[str, Any]]:
    """Return the resources of `several`, by kind, with its patches applied."""
    overlay = documents(SEVERAL / "kustomization.yaml")[0]
    base = documents(ONE / "kustomization.yaml")[0]
    assert overlay["resources"][0] == "../one"
    paths = [ONE / name for name in base["resources"]]
    paths += [SEVERAL / name for name in overlay["resources"][1:]]
    found = {one["kind"]: one for path in paths for one in documents(path)}
    for patch in overlay["patches"]:
        resource = found[patch["target"]["kind"]]
        assert resource["metadata"]["name"] == patch["target"]["name"]
        for step in yaml.safe_load(patch["patch"]):
            _patch(resource, step)
    return found


def _patch(resource: Any, step: dict[str, Any]) -> None:
    """Do one step of RFC 6902; an error if its place is not there."""
    *way, last = step["path"].strip("/").split("/")
    for name in way:
        resource = resource[name]
    if step["op"] == "add":
        assert last not in resource
        resource[last] = step["value"]
    elif step["op"] == "replace":
        assert last in resource
        resource[last] = step["value"]
    else:
        del resource[last]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_several_servers_are_patched_into_valid_manifests(version: str) -> None:
    """The patches find their places, and what they make is valid."""
    found = kustomized()
    for document in found.values():
        kubernetes_validate.validate(document, version, strict=True)
    assert found["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert "replicas" not in found["Deployment"]["spec"]
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == found["Deployment"]["metadata"]["name"]


def test_manifests_fit_the_image_and_one_another() -> None:
    """Probes ask what there is, ports and volumes meet, and nothing runs as root."""
    base = documents(ONE / "kustomization.yaml")[0]
    found = {d["kind"]: d for name in base["resources"] for d in documents(ONE / name)}
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in _PROBES}
    assert probes == _PROBES
    assert str(container["ports"][0]["containerPort"]) in values_of(
        stages()[-1], "EXPOSE"
    )
    user = values_of(stages()[-1], "USER")[0]
    context = pod["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert container["resources"]["requests"]
    assert container["resources"]["limits"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    claim = next(v for v in pod["volumes"] if v["name"] == "store")
    assert (
        claim["persistentVolumeClaim"]["claimName"]
        == found["PersistentVolumeClaim"]["metadata"]["name"]
    )
    secret = next(v for v in pod["volumes"] if v["name"] == "tokens")["secret"]
    assert secret["secretName"] == base["secretGenerator"][0]["name"]
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"].items() <= labels.items()


_PROBES: Final = {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    """Every setting is one that systemd knows, and little is left to an attacker."""
    unit = tmp_path / UNIT.name
    text = UNIT.read_text().replace("/opt/upload_kit/bin/upload-kit", sys.executable)
    unit.write_text(text)
    verified = run("systemd-analyze", "verify", "--man=no", unit)
    assert verified.returncode == 0, verified.stderr
    assert verified.stderr.strip() == ""
    judged = run(
        "systemd-analyze", "security", "--offline=true", "--threshold=15", unit
    )
    assert judged.returncode == 0, judged.stdout


def test_commands_of_the_unit_and_the_image_are_ours() -> None:
    """The words after `upload-kit` are options that it has."""
    unit = re.search(r"^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert unit is not None
    commands = [
        shlex.split(unit[1]),
        json.loads(values_of(stages()[-1], "CMD")[0]),
    ]
    for words in commands:
        assert Path(words[0]).name == "upload-kit"
        options = {word for word in words if word.startswith("--")}
        known = run(BIN / "upload-kit", "--help").stdout
        known += run(BIN / "upload-kit", "serve", "--help").stdout
        assert {o for o in options if not re.search(rf"{o}\b", known)} == set()


def test_the_units_settings_are_known(tmp_path: Path) -> None:
    """The example of a configuration file holds no key that does not exist."""
    config = DEPLOY / "systemd" / "upload-kit.toml"
    environment = {**os.environ, "UPLOAD_KIT_SESSION_DIR": str(tmp_path)}
    shown = run(
        BIN / "upload-kit", "--config", config, "config", "show", env=environment
    )
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"serve\.durability +fsync +file", shown.stdout)


class Proxy:
    """
    A shipped nginx file before servers of this machine, with a certificate.

    Args:
        folder: For its files.

        shipped: The file: a whole configuration, or the site of a machine.

        upstreams: Ports of servers.
    """

    def __init__(self, folder: Path, shipped: Path, upstreams: list[int]) -> None:
        self.https, self.http = _free_port(), _free_port()
        self.authority = folder / "authority.pem"
        self._folder = folder
        self._shipped = shipped
        self._upstreams = upstreams
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        configuration = self._folder / "nginx.conf"
        configuration.write_text(self._configuration())
        words = [_program(), "-p", str(self._folder), "-c", str(configuration)]
        checked = run(*words, "-t")
        assert checked.returncode == 0, checked.stderr
        assert "warn" not in checked.stderr
        self._process = subprocess.Popen(
            [*words, "-g", "daemon off;"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._await_ready()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(15)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.https}/"

    @property
    def plain_url(self) -> str:
        return f"http://localhost:{self.http}/"

    def log(self) -> str:
        return (self._folder / "access.log").read_text()

    def _configuration(self) -> str:
        """Return the shipped file with this machine's ports and paths in it."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        certificate = authority.issue_cert("localhost")
        certificate.cert_chain_pems[0].write_to_path(self._folder / "tls.crt")
        certificate.private_key_pem.write_to_path(self._folder / "tls.key")
        shutil.copy(NGINX / "upload-kit-server.conf", self._folder)
        text = self._shipped.read_text()
        if "events {" not in text:
            text = _SURROUNDINGS.format(site=text)
        servers = " ".join(f"server 127.0.0.1:{port};" for port in self._upstreams)
        for there, here in {
            r" /tmp/": f" {self._folder}/",
            r"server (server|127\.0\.0\.1):8000;": servers,
            r"listen 80;": f"listen 127.0.0.1:{self.http};",
            r"listen 443 ssl;": f"listen 127.0.0.1:{self.https} ssl;",
            r"/run/secrets/|/etc/nginx/upload-kit/": f"{self._folder}/",
            r"/etc/nginx/(?=upload-kit-server)": f"{self._folder}/",
            r"/dev/stderr": str(self._folder / "error.log"),
            r"/dev/stdout|/var/log/nginx/upload-kit\.log": str(
                self._folder / "access.log"
            ),
            r"events {": f"{_user()}\nevents {{",
        }.items():
            text, found = re.subn(there, here, text)
            assert found, there
        return text

    def _await_ready(self) -> None:
        limit = time.monotonic() + 15
        while time.monotonic() < limit:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.https)):
                return
            time.sleep(0.02)
        self.__exit__()
        raise AssertionError((self._folder / "error.log").read_text())


# What nginx has around a site.
_SURROUNDINGS: Final = """
pid /tmp/nginx.pid;
error_log /dev/stderr warn;
events {{
}}
http {{
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    scgi_temp_path /tmp/scgi;
    uwsgi_temp_path /tmp/uwsgi;
    {site}
}}
"""


@pytest.fixture(params=["compose/nginx.conf", "nginx/upload-kit.conf"])
def proxy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """Two servers over one folder behind nginx; the client meets now this, now that."""
    store = tmp_path / "store"
    tokens = tmp_path / "tokens"
    tokens.write_text("me:open-sesame\n")
    options = ("--token-file", str(tokens))
    with (
        ServerProcess(store, *options) as first,
        ServerProcess(store, *options) as second,
    ):
        folder = tmp_path / "nginx"
        folder.mkdir()
        with Proxy(folder, DEPLOY / request.param, [first.port, second.port]) as proxy:
            yield proxy


def put(
    proxy: Proxy, path: Path, *words: str, token: str, url: str | None = None
) -> Any:
    return run(
        BIN / "upload-kit",
        "put",
        path,
        url or proxy.url,
        *words,
        env={
            "SSL_CERT_FILE": str(proxy.authority),
            "UPLOAD_KIT_TOKEN": token,
            "UPLOAD_KIT_CONFIG": os.devnull,
            "UPLOAD_KIT_SESSION_DIR": str(path.parent / "state"),
        },
    )


def test_an_upload_goes_through_nginx_with_tls_to_two_servers(
    tmp_path: Path, proxy: Proxy
) -> None:
    """
    The shipped nginx file passes a large file on, chunk by chunk, to either server.

    A body larger than nginx's own limit of 1 MiB shows that the limit is off, and the
    whole-file digest that nothing changed on the way.
    """
    data = os.urandom(12_000_000)
    path = tmp_path / "big.bin"
    path.write_bytes(data)
    done = put(proxy, path, "--json", "--chunk-size", "2MB", token="open-sesame")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["sha256"] == hashlib.sha256(data).hexdigest()
    assert result["verified"] == "sha256"
    stored = next((tmp_path / "store").rglob("big.bin*"))
    assert stored.read_bytes() == data
    assert proxy.log().count('"PUT /upload/resumable/') == 6


def test_nginx_lets_nobody_in_and_shows_no_numbers(
    tmp_path: Path, proxy: Proxy
) -> None:
    """A wrong token is refused, plain HTTP is sent to TLS, /metrics stays inside."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"hello")
    refused = put(proxy, path, token="wrong")
    assert refused.returncode == 1
    assert "token" in refused.stderr
    sent_on = put(proxy, path, token="open-sesame", url=proxy.plain_url)
    assert sent_on.returncode == 1
    assert "it has moved to https://localhost/. Give that URL" in sent_on.stderr
    assert "PUT" not in proxy.log()

    plain = http.client.HTTPConnection("localhost", proxy.http, timeout=5)
    with closing(plain):
        plain.request("GET", "/upload?x=1")
        answer = plain.getresponse()
        assert answer.status == 308
        assert answer.headers["Location"] == "https://localhost/upload?x=1"
    trusted = ssl.create_default_context(cafile=proxy.authority)
    secure = http.client.HTTPSConnection(
        "localhost", proxy.https, timeout=5, context=trusted
    )
    with closing(secure):
        statuses = []
        for path_ in ("/healthz", "/metrics"):
            secure.request("GET", path_)
            answer = secure.getresponse()
            answer.read()
            statuses.append(answer.status)
        assert statuses == [200, 404]
