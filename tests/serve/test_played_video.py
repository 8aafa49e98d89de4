"""A drawn video plays in a browser, from a file and as a page shows it."""

from __future__ import annotations

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from singleshot.runtime.video_writer import VideoFile, usable_codec

SIDES, RATE, FRAMES = (96, 160), 10.0, 12


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A clip that turns from red to blue at its half."""
    height, width = SIDES
    codec = usable_codec(width, height, RATE)
    assert codec is not None
    path = tmp_path / f"drawn{codec.suffix}"
    video = VideoFile(path, codec, RATE, width, height)
    for k in range(FRAMES):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[..., 2 if k < FRAMES // 2 else 0] = 220
        video.add(frame, k / RATE)
    video.close()
    (tmp_path / "page.html").write_text(f"<video src={path.name} muted></video><canvas></canvas>")
    return path


def test_a_drawn_video_plays_in_a_browser(drawn: Path, open_page) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=drawn.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = open_page(f"http://127.0.0.1:{server.server_address[1]}/page.html")
        seen = page.evaluate(
            """async () => {
                const video = document.querySelector('video'), colours = [];
                const look = () => {
                    const canvas = document.querySelector('canvas');
                    const context = canvas.getContext('2d');
                    context.drawImage(video, 0, 0, canvas.width, canvas.height);
                    colours.push([...context.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data].slice(0, 3));
                };
                const ended = new Promise((resolve, reject) => {
                    video.onended = resolve;
                    video.onerror = () => reject(video.error.message);
                });
                if (video.readyState < 2) await new Promise(done => { video.onloadeddata = done; });
                look();
                await video.play();
                await ended;
                look();
                return {colours, sides: [video.videoHeight, video.videoWidth], seconds: video.currentTime};
            }"""
        )
    finally:
        server.shutdown()
        server.server_close()
    assert tuple(seen["sides"]) == SIDES
    assert seen["seconds"] == pytest.approx(FRAMES / RATE, abs=1.5 / RATE)
    first, last = np.array(seen["colours"][0]), np.array(seen["colours"][-1])
    assert first.argmax() == 0, first
    assert first[0] > 150, first
    assert last.argmax() == 2, last
    assert last[2] > 150, last
