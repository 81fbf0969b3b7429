"""Checks that danlu and huggingface_hub share one cache: each finds, without a network, what the other downloaded.

    python check_hub.py DANLU MODEL_FOLDER

DANLU is the program, MODEL_FOLDER a small model with a tokenizer. A hub on the loopback interface serves the model as
`org/tiny`. First danlu downloads it, and `snapshot_download`, `hf_hub_download` and transformers must read it with
`local_files_only`; then huggingface_hub downloads it into another cache, and danlu must answer from it with
`HF_HUB_OFFLINE=1`, as from the folder itself. Exit code 1 if anything differs.
"""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "org/tiny"


class Hub(http.server.BaseHTTPRequestHandler):
    """Lists and files as Hugging Face gives them."""

    protocol_version = "HTTP/1.1"
    files = {}

    def log_message(self, *arguments):
        pass

    def reply(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value):
        self.reply(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self):
        address = urllib.parse.urlparse(self.path)
        path = urllib.parse.unquote(address.path)
        listed = []
        for name, content in self.files.items():
            entry = {"path": name, "type": "file", "size": len(content), "oid": blob(name, content)}
            if is_large(name):
                entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
            listed.append(entry)
        if path.startswith(f"/api/models/{ID}/tree/"):
            return self.json(listed)
        if path.startswith(f"/api/models/{ID}"):
            siblings = [
                {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
                | ({"lfs": {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 130}} if "lfs" in entry else {})
                for entry in listed
            ]
            return self.json({"id": ID, "modelId": ID, "sha": COMMIT, "siblings": siblings})
        name = path.removeprefix(f"/{ID}/resolve/").partition("/")[2]
        if name not in self.files:
            return self.reply(404, b"", X_Error_Code="EntryNotFound")
        content = self.files[name]
        self.reply(200, content, Content_Type="application/octet-stream", ETag=f'"{blob(name, content)}"',
                   X_Repo_Commit=COMMIT, X_Linked_Size=len(content), Accept_Ranges="bytes")

    do_HEAD = do_GET


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def is_large(name):
    return name.endswith(".safetensors")


def blob(name, content):
    """The name of the content in the cache: SHA-256 of large files, else git's hash."""
    return sha256(content) if is_large(name) else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def run(program, *arguments, **variables):
    environment = {**os.environ, **variables}
    result = subprocess.run([program, *arguments, "--json"], capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        sys.exit(f"danlu {' '.join(arguments)}: {result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


READ = """
import sys, pathlib
from huggingface_hub import hf_hub_download, snapshot_download
from transformers import AutoModelForCausalLM
folder = pathlib.Path(snapshot_download("org/tiny", local_files_only=True))
assert hf_hub_download("org/tiny", "config.json", local_files_only=True) == str(folder / "config.json")
for path in folder.iterdir():
    assert (pathlib.Path(sys.argv[1]) / path.name).read_bytes() == path.read_bytes(), path
model = AutoModelForCausalLM.from_pretrained("org/tiny", local_files_only=True)
print(sum(parameter.numel() for parameter in model.parameters()), "parameters")
"""
WRITE = "from huggingface_hub import snapshot_download; print(snapshot_download('org/tiny'))"


def main(program, folder):
    folder = pathlib.Path(folder).resolve()
    Hub.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    online = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        print("danlu:", run(program, "download", "model", ID, HF_HOME=ours, **online)["folder"])
        environment = {**os.environ, **offline, "HF_HOME": ours}
        subprocess.run([sys.executable, "-c", READ, str(folder)], check=True, env=environment)
        subprocess.run([sys.executable, "-c", WRITE], check=True, env={**os.environ, **online, "HF_HOME": theirs})
        question = ["--prompt", "a", "--raw", "--max-new-tokens", "8", "--temperature", "0"]
        found = run(program, "generate", "--model", ID, *question, HF_HOME=theirs, **offline)
        expected = run(program, "generate", "--model", str(folder), *question)
        if found != expected:
            sys.exit(f"from the cache {found}, from the folder {expected}")
        again = run(program, "download", "model", ID, HF_HOME=theirs, **online)
        if again["transferred"] != 0:
            sys.exit(f"danlu fetched {again['transferred']} bytes that huggingface_hub had downloaded")
    print("each reads what the other downloaded")


if len(sys.argv) != 3:
    sys.exit(__doc__)
main(*sys.argv[1:])
