"""`unseg web` as a process: what it prints, where it listens, and that it leaves nothing, however it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from urllib.parse import urlsplit

import pytest

from tests.support.web_process import ROOT, web
from tests.support.web_server import file_of, photograph
from unseg import cli


def ask(address, method="GET", data=None):
    with urllib.request.urlopen(urllib.request.Request(address, data=data, method=method)) as answer:
        return answer.read()


def upload(address):
    tab = json.loads(ask(f"{address}tabs", "POST"))["tab"]
    ask(f"{address}tabs/{tab}/pictures?name=a.png", "POST", file_of(photograph()))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_nothing_stays(tmp_path, number, code):
    with web(tmp_path) as (process, address):
        upload(address)
        assert any(tmp_path.rglob("a.png"))
        process.send_signal(number)
        assert process.wait(20) == code
        printed = process.stdout.read() + process.stderr.read()
    assert printed.splitlines()[-1] == "unseg: stopped; everything that was uploaded is removed"
    assert "Traceback" not in printed and list(tmp_path.iterdir()) == []


def test_a_request_on_its_way_does_not_hold_up_the_end(tmp_path):
    """A picture whose second half never comes."""
    with web(tmp_path) as (process, address):
        place = urlsplit(address)
        tab = json.loads(ask(f"{address}tabs", "POST"))["tab"]
        lines = [
            f"POST {place.path}tabs/{tab}/pictures?name=a.png HTTP/1.1",
            f"Host: {place.netloc}",
            "Content-Length: 9",
        ]
        with socket.create_connection((place.hostname, place.port)) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + b"\x89PNG")
            ask(f"{address}tabs/{tab}/alive", "POST")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 143
        assert process.stderr.read() == "unseg: stopped; everything that was uploaded is removed\n"
    assert list(tmp_path.iterdir()) == []


def test_it_listens_on_this_machine_alone_and_the_next_one_cleans_up(tmp_path):
    with web(tmp_path) as (process, address):
        upload(address)
        own = socket.gethostbyname(socket.gethostname())
        if not own.startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((own, urlsplit(address).port), 2).close()
        port = str(urlsplit(address).port)
        again = subprocess.run(
            [sys.executable, "-m", "unseg.cli", "web", "--no-browser", "--port", port],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
        assert again.returncode == 2 and again.stderr.startswith(f"unseg: error: --port {port}: cannot be used")
        process.kill()
        process.wait()
    assert any(tmp_path.rglob("a.png"))
    with web(tmp_path):
        assert not any(tmp_path.rglob("a.png"))


def test_the_browser_is_started_without_the_token(monkeypatch, capsys):
    import webbrowser

    from unseg.commands import web as command

    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    command._tell("http://127.0.0.1:1/token/", "http://127.0.0.1:1/once", False)
    command._tell("http://127.0.0.1:1/token/", "http://127.0.0.1:1/once", True)
    assert opened == ["http://127.0.0.1:1/once"]
    assert capsys.readouterr().out.count("Open http://127.0.0.1:1/token/") == 2


def test_a_missing_extra_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    assert cli.main(["web", "--no-browser"]) == 2
    assert capsys.readouterr().err == (
        "unseg: error: unseg web: needs python_multipart, which is not installed; run: pip install 'unseg[web]'\n"
    )


def test_a_key_file_that_holds_none_is_one_line(tmp_path, capsys):
    (tmp_path / "bad.key").write_text("words")
    assert cli.main(["web", "--no-browser", "--key", str(tmp_path / "bad.key")]) == 2
    assert capsys.readouterr().err.startswith(f"unseg: error: {tmp_path}/bad.key: holds no key")


WITHOUT_TORCH = """
import sys, tempfile
from pathlib import Path
from tests.support.web_server import MASK_BITS, client_of, file_of, photograph
with client_of(Path(tempfile.mkdtemp()) / "files") as client:
    tab = client.post("tabs").json()["tab"]
    client.post(f"tabs/{tab}/pictures", params={"name": "a.png"}, content=file_of(photograph())).raise_for_status()
    picture = f"tabs/{tab}/pictures/1"
    client.put(f"{picture}/object", content=client.post(f"{picture}/outline", json={"box": [8, 8, 44, 32]}).content)
    for path in ("verdict", "protected.png", "noise.png", "mask.png"):
        client.get(f"{picture}/{path}").raise_for_status()
    client.post(f"tabs/{tab}/files", json={}).raise_for_status()
    while client.get(f"tabs/{tab}/files").json()["state"] == "running":
        pass
    assert client.get(f"tabs/{tab}/files").json()["state"] == "done"
    client.post("protect", files={"image": file_of(photograph())}, data={"whole_image": "true"}).raise_for_status()
sys.exit("torch" in sys.modules)
""".replace("MASK_BITS, ", "")


def test_torch_is_never_loaded():
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=ROOT, check=True, timeout=120)
