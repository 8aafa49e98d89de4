"""A hub of models on this machine, that speaks as much of the Hugging Face Hub's protocol as its client asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np
import pytest
from huggingface_hub import constants

from singleshot.cli import main

TOKEN = "hf_" + "s3cret" * 6


@dataclass
class FakeHub:
    """repos: by OWNER/NAME files of each commit, the last one is that of main; asked: method, path and token of each
    request; large: names of files that are sent as blobs apart (LFS); sizes: what is said of a file in place of the
    truth; private: repositories that want the token."""

    address: str = ""
    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    large: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def put(self, repo: str, **files: bytes) -> str:
        """A commit with these files (`__` stands for a dot); its hash."""
        return self.commit(repo, {name.replace("__", "."): data for name, data in files.items()})

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        commits = self.repos.setdefault(repo, {})
        whole = {**(list(commits.values())[-1] if commits else {}), **files}
        name = hashlib.sha1(json.dumps([len(commits), sorted(whole)]).encode()).hexdigest()
        commits[name] = whole
        return name

    def main(self, repo: str) -> str:
        return list(self.repos[repo])[-1]


def handler_of(there: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None: ...

        def answer(self, status: int, body: Any = b"", **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def missing(self, what: str, status: int = 404) -> None:
            self.answer(status, {"error": f"no such {what}"}, X_Error_Code=f"{what}NotFound")

        def begin(self) -> tuple[str, bytes]:
            path = unquote(urlsplit(self.path).path)
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            there.asked.append((self.command, path, token))
            length = int(self.headers.get("Content-Length") or 0)
            return path, self.rfile.read(length)

        def commit_of(self, repo: str, revision: str) -> str | None:
            """The commit, or None where the answer is given already."""
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if repo not in there.repos or (repo in there.private and token != TOKEN):
                self.missing("Repo", 401)
                return None
            found = there.main(repo) if revision == "main" else revision
            if found not in there.repos[repo]:
                self.missing("Revision")
                return None
            return found

        def do_GET(self) -> None:
            path, _ = self.begin()
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                repo = "/".join(parts[2:4])
                commit = self.commit_of(repo, "/".join(parts[5:]) or "main")
                if commit is not None:
                    files = there.repos[repo][commit]
                    siblings = [
                        {"rfilename": name, "size": there.sizes.get(name, len(data)), "blobId": "0"}
                        for name, data in files.items()
                    ]
                    self.answer(200, {"id": repo, "sha": commit, "private": False, "siblings": siblings, "tags": []})
                return
            if len(parts) < 5:  # what else the client is curious about
                self.missing("Path")
                return
            repo, commit = "/".join(parts[:2]), self.commit_of("/".join(parts[:2]), parts[3])
            if commit is None:
                return
            name = "/".join(parts[4:])
            if name not in there.repos[repo][commit]:
                self.missing("Entry")
                return
            data = there.repos[repo][commit][name]
            self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=commit)

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def do_PUT(self) -> None:
            path, body = self.begin()
            there.blobs[path.rpartition("/")[2]] = body
            self.answer(200)

        def do_POST(self) -> None:
            path, body = self.begin()
            if self.headers.get("Authorization") != f"Bearer {TOKEN}" and "validate" not in path:
                self.answer(401, {"error": "Invalid user token."})
            elif path == "/api/repos/create":
                asked = json.loads(body)
                repo = f"{asked.get('organization') or 'me'}/{asked['name'].rpartition('/')[2]}"
                if repo in there.repos:
                    self.answer(409, {"error": "You already created this model repo", "url": f"{there.address}/{repo}"})
                else:
                    there.commit(repo, {".gitattributes": b""})
                    if asked.get("private") or asked.get("visibility") == "private":
                        there.private.add(repo)
                    self.answer(200, {"url": f"{there.address}/{repo}", "name": repo})
            elif path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif "/preupload/" in path:
                files = [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"] in there.large else "regular",
                        "shouldIgnore": False,
                    }
                    for one in json.loads(body)["files"]
                ]
                self.answer(200, {"files": files})
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**one, "actions": {"upload": {"href": f"{there.address}/blobs/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]
                self.answer(200, {"transfer": "basic", "objects": objects})
            elif "/commit/" in path:
                repo = "/".join(path.split("/")[3:5])
                rows = [json.loads(line) for line in body.splitlines()]
                files = {}
                for row in rows:
                    value = row["value"]
                    if row["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif row["key"] == "lfsFile":
                        files[value["path"]] = there.blobs[value["oid"]]
                commit = there.commit(repo, files)
                url = f"{there.address}/{repo}/commit/{commit}"
                self.answer(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})
            else:
                self.missing("Path")

    return Handler


@pytest.fixture
def fake_hub(serve: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """An empty hub, which the client asks; its cache is in the test's folder, and a token is there."""
    there = FakeHub()
    there.address = serve(handler_of(there))
    monkeypatch.setattr(constants, "ENDPOINT", there.address)
    template = f"{there.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the other way to send files, of hf_xet's own servers
    for name, value in (("HF_ENDPOINT", there.address), ("HF_HUB_CACHE", str(tmp_path / "cache")), ("HF_TOKEN", TOKEN)):
        monkeypatch.setenv(name, value)
    return there


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an ssd320-mini of random weights, as a training leaves it, in the folder of a run."""
    torch = pytest.importorskip("torch")
    from singleshot.models import build
    from singleshot.weights.checkpoint import ModelInfo, save_checkpoint

    folder = tmp_path_factory.mktemp("runs") / "first"
    folder.mkdir()
    torch.manual_seed(0)
    network = build("ssd320-mini", 2).eval()
    training = {"epochs": 3, "steps": 60, "seed": 7, "batch": 8, "data": "/home/somebody/fruit (train)", "recipe": {}}
    info = ModelInfo.of(network, ("apple", "pear|`<b>`"), metrics={"val_map50": 0.5}, training=training)
    save_checkpoint(folder / "best.safetensors", network.state_dict(), info)
    options = {"data": "/home/somebody/fruit", "split": "train", "recipe": "finetune", "seed": 7}
    (folder / "run.json").write_text(json.dumps({"options": options, "recipe": {}}))
    (folder / "log.csv").write_text("epoch,val_map50\n1,0.5\n")
    per_class = [{"name": "apple", "ap": 0.75, "truths": 12}, {"name": "pear|`<b>`", "ap": None, "truths": 0}]
    found = {"model": "x/best.safetensors", "data": "/home/somebody/fruit", "split": "val", "metric": "voc",
             "mean_ap": 0.75, "images": 9, "per_class": per_class}  # fmt: skip
    (folder / "eval.json").write_text(json.dumps(found))
    return folder / "best.safetensors"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    return path


@pytest.fixture
def command(capsys, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """command("push", ...): exit code, standard output and error of the command line, in this process."""
    ours = logging.getLogger("singleshot")
    kept = ours.handlers, ours.level

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["singleshot", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert TOKEN not in said.out + said.err
        return int(ended.value.code or 0), said.out, said.err

    yield call
    ours.handlers, ours.level = kept
