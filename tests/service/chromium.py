"""Chromium without a window, driven through a pipe: no driver, no port, no package."""

import json
import os
import select
import shutil
import subprocess
import time

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
)  # fmt: skip


def installed():
    """The browser's path, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Chromium:
    """One page in one browser, by the Chrome DevTools Protocol over `--remote-debugging-pipe`."""

    def __init__(self, profile, *flags):
        from_browser, its_end = os.pipe()
        browser_reads, to_browser = os.pipe()
        # The browser reads commands from descriptor 3 and writes to 4, the shell moves them there.
        # They are moved out of the way first: either may be 3 or 4 already.
        command = f'exec 8<&{browser_reads} 9>&{its_end} && exec 3<&8 4>&9 8<&- 9>&- && exec "$0" "$@"'
        self.process = subprocess.Popen(
            [
                *("bash", "-c", command, installed(), *FLAGS, *flags),
                *(f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"),
            ],
            pass_fds=(browser_reads, its_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_reads)
        os.close(its_end)
        self.reads, self.writes = from_browser, to_browser
        self.rest, self.number, self.session, self.events = b"", 0, None, []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        answer = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self.session = answer["sessionId"]
        for name in ("Page", "Runtime", "DOM", "Log", "Network"):
            self.call(f"{name}.enable")

    def call(self, method, **values):
        """Answer to one command; what happens meanwhile is kept in `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": values}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.message(30)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def message(self, seconds):
        """The next message of the browser."""
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.reads], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self.reads, 1 << 20)
            assert data, "the browser has ended"
            self.rest += data
        line, self.rest = self.rest.split(b"\0", 1)
        return json.loads(line)

    def run(self, script):
        """Value of an expression; promises are waited for."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script, seconds=30):
        """Until an expression holds."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"{script}: {self.run('document.body.innerText')}"
            time.sleep(0.05)

    def put_file(self, selector, path):
        """Choose a file as a person would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def complaints(self):
        """Errors of scripts, of the console and of the content policy."""
        self.run("0")  # whatever came before is in `events` now
        return [
            each["params"]
            for each in self.events
            if each.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")
            and each["params"].get("entry", {}).get("level") != "verbose"
        ]

    def close(self):
        """End it."""
        os.close(self.writes)
        os.close(self.reads)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
