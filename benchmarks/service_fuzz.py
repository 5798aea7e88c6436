"""Hostile requests to the service: nothing may crash, nothing leak, nobody get in.

    python -m benchmarks.service_fuzz [--damaged 300] [--schemathesis-seconds 60] [--seed 1]

`iom serve` runs over a gallery of two applications. Against it go: hostile uploads (bombs, cut,
polyglot, 1x1, 50 megapixels, other types, lying headers) and damaged ones to every action that
takes a face; strings of injections in every field and in the path; tokens of another application,
of other roles, out of date, taken back, made up; forms and raw bytes that are none; methods that
do not exist; and schemathesis on the OpenAPI description, in an environment of its own that is
made in .cache/schemathesis the first time.

A crash is an answer of 500 or more, a connection that ends without an answer, an answer that takes
15 s, or a service that is not ready after it. A leak is a subject, token, hash, path or traceback
in an answer to somebody who did not send it, or any of it in the log. Who gets in has an answer of
200 that his token does not open. In the end both stores are checked, and who was enrolled before is
still who he was.
"""

import argparse
import json
import socket
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from tqdm import tqdm

from benchmarks.service_client import HASHER, Service, drawn_faces, form, report, serving
from benchmarks.service_fuzz_cases import METHODS, STRINGS, bearers, damaged, encoded, face, forms, raw, uploads
from benchmarks.service_schemathesis import run_schemathesis

SLOWEST = 15.0
CANARIES = {"door": "canary-7f3a-of-the-door", "gate": "canary-91bc-of-the-gate"}
FACE_ACTIONS = ("align", "verify", "identify", "enroll", "renew")
ACTIONS = (*FACE_ACTIONS, "revoke")
WITH_MANY = ("enroll", "renew")
ROLES = {"verifier": {"verify", "identify", "align"}, "monitor": set()}
ROLES["enroller"] = ROLES["verifier"] | {"enroll", "renew"}


class Judge:
    """Counts what happened, and keeps what was wrong."""

    def __init__(self, service: Service, secrets: list[str]) -> None:
        self.service, self.secrets = service, [text.encode() for text in secrets]
        self.cases = self.crashes = self.leaks = self.got_in = 0
        self.statuses: dict[int, int] = {}
        self.problems: list[str] = []

    def ask(self, case: str, method: str, path: str, *, allowed: bool = True, **options) -> int:
        """One request and what is to be said of its answer; its status, or 0."""
        self.cases += 1
        begin = time.monotonic()
        try:
            status, headers, body = self.service.ask(method, path, seconds=2 * SLOWEST, **options)
        except (OSError, EOFError, ValueError) as error:
            # http.client refuses to send some things itself; that is no answer of the service.
            if isinstance(error, OSError):
                self.wrong("crashes", case, f"no answer: {error!r}")
            return 0
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status >= 500:
            self.wrong("crashes", case, f"{status} {body[:200]!r}")
        if time.monotonic() - begin > SLOWEST:
            self.wrong("crashes", case, f"{time.monotonic() - begin:.0f} s")
        if status == 200 and not allowed:
            self.wrong("got_in", case, f"{path} {body[:100]!r}")
        sent = (path + repr(options.get("headers"))).encode() + options.get("body", b"")
        self.look(case, repr(headers).encode() + body, sent)
        return status

    def post(self, case: str, path: str, fields: dict, token: str, *, allowed: bool = True) -> int:
        """One form."""
        body, kind = form(fields)
        headers = {"Content-Type": kind}
        return self.ask(case, "POST", path, allowed=allowed, body=body, headers=headers, token=token)

    def look(self, case: str, answer: bytes, sent: bytes = b"") -> None:
        """Search an answer, or the log, for what should not be there."""
        for secret in self.secrets:
            if secret in answer and secret not in sent:
                self.wrong("leaks", case, f"{secret!r} in {answer[:300]!r}")

    def is_well(self, case: str) -> None:
        """Count a service that is not ready any more."""
        try:
            status = self.service.ask("GET", "/health/ready", seconds=SLOWEST)[0]
        except OSError as error:
            status = 0
            if self.service.process.poll() is not None:
                raise SystemExit(f"{case}: the service is dead ({error!r})") from error
        if status != 200:
            self.wrong("crashes", case, f"not ready: {status}")

    def wrong(self, kind: str, case: str, text: str) -> None:
        """Count it."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.problems.append(f"{kind}: {case}: {text}")


def main(argv: list[str] | None = None) -> int:
    """Run everything and print one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service_fuzz", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--damaged", type=int, default=300, help="damaged images (default: 300)")
    parser.add_argument("--seed", type=int, default=1, help="of the damage (default: 1)")
    parser.add_argument("--schemathesis-seconds", type=int, default=60, help="0 leaves it out (default: 60)")
    parser.add_argument("--detector", default="mtcnn", help="as of iom serve")
    parser.add_argument("--detector-weights", help="as of iom serve")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="iom-fuzz-") as name:
        folder = Path(name)
        tokens, bad = prepare(folder)
        options = [
            *("--gallery", f"sqlite:///{folder / 'g.db'}"),
            *("--keys", f"file:{folder / 'keys'}?key-file={folder / 'wrap'}"),
            *("--tokens", str(folder / "tokens.json"), "--hasher", HASHER),
            *("--rate", "1e9", "--failures", "1e9", "--detector", arguments.detector),
        ]
        if arguments.detector_weights:
            options += ["--detector-weights", arguments.detector_weights]
        with serving(*options) as service:
            secrets = [*CANARIES.values(), *tokens.values(), str(folder), "Traceback", 'File "/']
            judge = Judge(service, [*secrets, "site-packages", "sqlite3", "SELECT "])
            before = [enrol_canary(service, tokens, each) for each in CANARIES]
            throw(judge, tokens, bad, arguments)
            generated = 0
            if arguments.schemathesis_seconds:
                generated, failures = run_schemathesis(
                    service, folder, tokens["door admin"], arguments.schemathesis_seconds
                )
                for failure in failures:
                    judge.wrong("crashes", "schemathesis", failure)
                judge.is_well("schemathesis")
            for each, image in zip(CANARIES, before, strict=True):
                still_there(judge, tokens, each, image)
            log = service.log.read_bytes()
        judge.look("the log", log)
        check_stores(judge, folder)
    print(f"statuses: {dict(sorted(judge.statuses.items()))}; schemathesis: {generated} cases")
    for problem in judge.problems:
        print(problem[:500])
    figures = {name: getattr(judge, name) for name in ("crashes", "leaks", "got_in")}
    report({"cases": judge.cases + generated, **figures, "schemathesis_cases": generated})
    return 0 if not judge.problems else 1


def prepare(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """A gallery of two applications; tokens that are good, and headers that are not."""
    from iom.gallery.gallery import Gallery
    from iom.gallery.key_store import open_key_store
    from iom.gallery.stores.base import open_store
    from iom.models.face_hasher import KerasFaceHasher
    from iom.service.tokens import add_token, remove_token

    store = open_store(f"sqlite:///{folder / 'g.db'}", create=True)
    keys = open_key_store(f"file:{folder / 'keys'}?key-file={folder / 'wrap'}", create=True, passphrase=lambda: "")
    with Gallery(store, keys, KerasFaceHasher.load(HASHER)) as gallery:
        for name in CANARIES:
            gallery.create_application(name)
    file = folder / "tokens.json"
    tokens = {
        f"{application} admin": add_token(file, name=f"{application}-admin", application=application, role="admin")
        for application in CANARIES
    }
    for role in ROLES:
        tokens[role] = add_token(file, name=role, application="door", role=role)
    expired = add_token(file, name="old", application="door", role="admin", days=-1)
    removed = add_token(file, name="gone", application="door", role="admin")
    remove_token(file, "gone")
    return tokens, bearers(tokens, file, removed, expired)


def enrol_canary(service: Service, tokens: dict[str, str], application: str) -> bytes:
    """Enrol somebody who must not be seen from the other application; his face."""
    image = drawn_faces(2)[list(CANARIES).index(application)]
    service.ok(
        f"/v1/{application}/enroll", token=tokens[f"{application} admin"], subject=CANARIES[application], images=[image]
    )
    return image


def throw(judge: Judge, tokens: dict[str, str], bad: dict[str, str], arguments) -> None:
    """All that is made here."""
    admin, image = tokens["door admin"], encoded(face(5), "PNG")
    files = [*uploads().items(), *damaged(arguments.damaged, arguments.seed)]
    for name, data in tqdm(files, desc="uploads", unit="file"):
        for action in FACE_ACTIONS:
            field = "images" if action in WITH_MANY else "image"
            fields = {"subject": "somebody", field: [data]}
            judge.post(f"{action}, {name}", f"/v1/door/{action}", fields, admin)
        judge.is_well(name)
    for text in tqdm(STRINGS, desc="strings", unit="string"):
        strings(judge, text, image, tokens)
    for name, header in tqdm(bad.items(), desc="tokens", unit="token"):
        strangers(judge, name, header, image)
    for role, opened in ROLES.items():
        for action in ACTIONS:
            field = "images" if action in WITH_MANY else "image"
            fields = {"subject": f"by-{role}", field: image}
            path = f"/v1/door/{action}"
            judge.post(f"{role}, {action}", path, fields, tokens[role], allowed=action in opened)
    for action in ("verify", "enroll"):
        for name, (body, kind) in tqdm(forms(image).items(), desc=f"forms, {action}", unit="form"):
            headers = {"Content-Type": kind}
            path = f"/v1/door/{action}"
            judge.ask(f"form {name}", "POST", path, body=body, headers=headers, token=admin)
    for path in ("/", "/v1/door/verify", "/metrics", "/health/ready", "/samples/0", "/nothing"):
        for method in METHODS:
            judge.ask(f"{method} {path}", method, path, token=admin)
    body, kind = form({"image": image})
    for name, data in tqdm(raw(judge.service.host, admin, body, kind).items(), desc="raw bytes"):
        throw_raw(judge, name, data)


def strings(judge: Judge, text: str, image: bytes, tokens: dict[str, str]) -> None:
    """One string in every place a string can be."""
    admin, case = tokens["door admin"], f"string {text[:40]!r}"
    for action in ACTIONS:
        field = "images" if action in WITH_MANY else "image"
        judge.post(f"{action}, {case}", f"/v1/door/{action}", {"subject": text, field: image}, admin)
    fields = {"subject": "somebody", "images": image, "another": text}
    judge.post(f"another, {case}", "/v1/door/enroll", fields, admin)
    judge.post(f"field, {case}", "/v1/door/verify", {text[:200] or "x": text, "image": image}, admin)
    escaped = quote(text[:2000], safe="")
    if text != "door":
        for token in (admin, tokens["gate admin"]):
            inside = text == "gate" and token == tokens["gate admin"]
            path = f"/v1/{escaped}/identify"
            judge.post(f"application, {case}", path, {"image": image}, token, allowed=inside)
    judge.ask(f"action, {case}", "POST", f"/v1/door/{escaped}", token=admin, allowed=False)
    judge.ask(f"path, {case}", "GET", f"/{escaped}", token=admin, allowed=text == "")
    number = text in ("0", "\n id")
    judge.ask(f"sample, {case}", "GET", f"/samples/{escaped}", allowed=number)
    judge.ask(f"query, {case}", "GET", f"/v1/door/stats?a={escaped}", token=admin)
    one_line = escaped.replace("%", "")[:2000]
    headers = {"Host": one_line, "Referer": one_line, "X-Forwarded-For": one_line}
    judge.ask(f"header, {case}", "GET", "/health/live", headers=headers)


def strangers(judge: Judge, name: str, header: str, image: bytes) -> None:
    """One header that opens nothing of the door, at every place that is closed."""
    headers = {"Authorization": header.encode("latin-1")} if header else {}
    for action in ACTIONS:
        field = "images" if action in WITH_MANY else "image"
        body, kind = form({"subject": CANARIES["door"], field: image})
        judge.ask(
            f"token {name}, {action}",
            "POST",
            f"/v1/door/{action}",
            allowed=False,
            body=body,
            headers={**headers, "Content-Type": kind},
        )
    for path in ("/v1/door/stats", "/metrics", "/v1/door/stats?access_token=x", "/docs", "/redoc"):
        allowed = name == "monitor" and path == "/metrics"
        judge.ask(f"token {name}, {path}", "GET", path, allowed=allowed, headers=headers)


def throw_raw(judge: Judge, name: str, data: bytes) -> None:
    """Bytes on a connection; whatever the answer is, the service must be well after it."""
    judge.cases += 1
    answer = b""
    try:
        address = (judge.service.host, judge.service.port)
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
    except OSError:
        pass  # the service may close on what is no HTTP
    if answer.startswith(b"HTTP/1.1 5"):
        judge.wrong("crashes", f"raw {name}", repr(answer[:200]))
    judge.look(f"raw {name}", answer, data)
    judge.is_well(f"raw {name}")


def still_there(judge: Judge, tokens: dict[str, str], application: str, image: bytes) -> None:
    """Whoever was enrolled before all this is still who he was."""
    status, _, body = judge.service.post(
        f"/v1/{application}/verify", token=tokens[f"{application} admin"], subject=CANARIES[application], image=image
    )
    if status != 200 or not json.loads(body)["match"]:
        judge.wrong("got_in", f"who was enrolled in {application}", f"{status} {body!r}")


def check_stores(judge: Judge, folder: Path) -> None:
    """Both stores and the audit log, after the service has ended."""
    from iom.gallery.gallery import Gallery
    from iom.gallery.key_store import open_key_store
    from iom.gallery.stores.base import open_store

    keys = open_key_store(f"file:{folder / 'keys'}?key-file={folder / 'wrap'}", passphrase=str)
    with Gallery(open_store(f"sqlite:///{folder / 'g.db'}"), keys) as gallery:
        for problem in gallery.check():
            judge.wrong("crashes", "the stores", problem)


if __name__ == "__main__":
    raise SystemExit(main())
