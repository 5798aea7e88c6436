"use strict";
const at = (id) => document.getElementById(id);
const LONGEST_SIDE = 1600; // larger photographs are shrunk here: less to send, and no limit is met
const TOUR = ["enroll yes", "verify yes", "identify yes", "revoke yes", "verify refused", "renew yes", "verify yes"];
const NAMES = { enroll: "Enrol", verify: "Verify", identify: "Identify", revoke: "Revoke", renew: "Renew" };
let face = null; // what is sent: the aligned face once there is one
let chosen = 0; // counts choices: an answer to an earlier one comes too late
let stream = null;
let step = 0;

// What the page says ----------------------------------------------------------------------------

function tell(kind, answer, reason = "", score = null) {
  at("result").className = kind;
  at("answer").textContent = answer;
  at("reason").textContent = reason;
  at("scale").hidden = !score;
  if (!score) return;
  const most = Math.max(score.threshold * 2, score.distance);
  at("within").style.width = `${(100 * score.threshold) / most}%`;
  at("mark").style.left = `min(${(100 * score.distance) / most}%, 100% - .3rem)`;
}

// An answer is about one picture: it goes when another one comes.
function forget() {
  tell("", "Nothing asked yet", "Name the person and press a button.");
}

function note(action, subject, kind, answer) {
  const line = document.createElement("li");
  const result = document.createElement("span");
  result.className = kind;
  result.textContent = answer;
  line.append(subject ? `${NAMES[action]} ${subject}: ` : `${NAMES[action]}: `, result);
  at("log").prepend(line);
  if (TOUR[step] === `${action} ${kind}`) step += 1;
  showTour();
}

function showTour() {
  [...at("tour").children].forEach((line, number) => {
    line.className = number < step ? "done" : number === step ? "next" : "";
  });
}

// Talking to the service --------------------------------------------------------------------------

async function ask(action, form) {
  const path = `v1/${encodeURIComponent(at("application").value)}/${action}`;
  const options = { headers: { Authorization: `Bearer ${at("token").value.trim()}` } };
  if (form) Object.assign(options, { method: "POST", body: form });
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    return { status: 0, detail: "the service does not answer" };
  }
  const type = answer.headers.get("content-type") || "";
  if (answer.ok) return { status: 200, content: type.startsWith("image/") ? await answer.blob() : await answer.json() };
  let detail = answer.statusText;
  try {
    detail = (await answer.json()).detail;
  } catch { /* a proxy's own page */ }
  if (answer.status === 401) { detail = "enter a valid token under Access"; at("access").open = true; }
  return { status: answer.status, detail };
}

function read(action, subject, content) {
  switch (action) {
    case "enroll": return ["yes", "Enrolled", `${subject} can be verified from now on.`];
    case "renew": return ["yes", "Renewed", `${subject} has a new template under a fresh key; the old one stays refused.`];
    case "revoke": return ["yes", "Revoked", `Every template ${subject} had (${content.revoked}) is refused for ever.`];
    case "identify": {
      const names = content.map((each) => each.subject).join(", ");
      return names ? ["yes", `This is ${names}`, "Found among all who are enrolled."] : ["no", "No match", "No enrolled subject is near enough."];
    }
    default: {
      const score = "distance" in content ? content : null;
      const reason = score ? `${score.distance} differing positions; at most ${score.threshold} match.` : "";
      return content.match ? ["yes", `Match: this is ${subject}`, reason, score] : ["no", `No match: not ${subject}`, reason, score];
    }
  }
}

async function act(action) {
  const subject = action === "identify" ? "" : at("subject").value.trim();
  if (action !== "identify" && !subject) { tell("no", "Who is it?", "Enter the person's name."); at("subject").focus(); return; }
  if (action !== "revoke" && !face) return tell("no", "No face yet", "Choose a file, a synthetic face, or use the webcam.");
  const form = new FormData();
  if (subject) form.append("subject", subject);
  if (action !== "revoke") form.append(action === "enroll" || action === "renew" ? "images" : "image", face, "face");
  const mine = chosen;
  const { status, content, detail } = await ask(action, form);
  const outcome = status === 200 ? read(action, subject, content)
    : status === 410 ? ["refused", "Refused: the template is revoked", detail]
      : ["no", status ? "Not done" : "No answer", detail];
  if (mine === chosen) tell(...outcome);
  note(action, subject, outcome[0], outcome[1]);
  await count();
}

async function count() {
  const { status, content } = await ask("stats");
  at("counts").textContent = status === 200 ? `enrolled ${content.subjects}, templates ${content.references}, revoked ${content.revoked}` : "";
}

// The face ----------------------------------------------------------------------------------------

function show(id, blob) {
  const image = at(id);
  URL.revokeObjectURL(image.src);
  image.hidden = !blob;
  if (blob) image.src = URL.createObjectURL(blob);
}

async function shrunk(blob) {
  const bitmap = await createImageBitmap(blob);
  const scale = LONGEST_SIDE / Math.max(bitmap.width, bitmap.height);
  if (scale >= 1) return blob;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
}

async function choose(blob, pressed = null) {
  const mine = ++chosen;
  forget();
  document.querySelectorAll("#people button").forEach((each) => each.setAttribute("aria-pressed", each === pressed));
  stopCamera();
  show("aligned", null);
  face = null;
  at("pending").hidden = false;
  at("pending").textContent = "…";
  show("picture", blob);
  at("hint").hidden = true;
  const small = await shrunk(blob).catch(() => blob); // the service says what is wrong with it
  const form = new FormData();
  form.append("image", small, "face");
  const { status, content, detail } = await ask("align", form);
  if (mine !== chosen) return;
  at("pending").hidden = status === 200;
  at("pending").textContent = "not usable";
  if (status !== 200) return tell("no", "This picture cannot be used", detail);
  face = content;
  show("aligned", content);
}

function stopCamera() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  at("video").hidden = at("shoot").hidden = true;
}

async function startCamera() {
  if (stream) return;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, facingMode: "user" } });
  } catch (error) {
    return tell("no", "No webcam", error.message);
  }
  chosen += 1;
  face = null;
  forget();
  show("aligned", null);
  at("pending").hidden = false;
  at("pending").textContent = "112 × 112";
  document.querySelectorAll("#people button").forEach((each) => each.setAttribute("aria-pressed", false));
  at("video").srcObject = stream;
  at("picture").hidden = at("hint").hidden = true;
  at("video").hidden = at("shoot").hidden = false;
  await at("video").play();
}

function shoot() {
  const canvas = document.createElement("canvas");
  canvas.width = at("video").videoWidth;
  canvas.height = at("video").videoHeight;
  canvas.getContext("2d").drawImage(at("video"), 0, 0);
  canvas.toBlob((blob) => choose(blob), "image/jpeg", 0.95);
}

async function addSamples(number) {
  for (let i = 0; i < number; i += 1) {
    const blob = await (await fetch(`samples/${i}`)).blob();
    if (i % 2 === 0) at("people").append(document.createElement("span"));
    const button = document.createElement("button");
    const image = document.createElement("img");
    image.src = URL.createObjectURL(blob);
    image.alt = `person ${Math.floor(i / 2) + 1}, picture ${(i % 2) + 1}`;
    button.type = "button";
    button.append(image);
    button.addEventListener("click", () => choose(blob, button));
    at("people").lastChild.append(button);
  }
  at("samples").hidden = !number;
}

// Start -------------------------------------------------------------------------------------------

document.querySelectorAll("[data-action]").forEach((button, _, all) => button.addEventListener("click", async () => {
  all.forEach((each) => { each.disabled = true; });
  try {
    await act(button.dataset.action);
  } finally {
    all.forEach((each) => { each.disabled = false; });
  }
}));
at("file").addEventListener("change", () => {
  if (at("file").files.length) choose(at("file").files[0]);
  at("file").value = "";
});
at("camera").addEventListener("click", startCamera);
at("shoot").addEventListener("click", shoot);
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind.startsWith("drage") || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) choose(event.dataTransfer.files[0]);
  });
}
at("token").addEventListener("change", () => { count(); });

const link = new URLSearchParams(location.hash.slice(1));
const given = link.get("token");
if (given) {
  at("token").value = given;
  at("application").value = link.get("application") || at("application").value;
  at("access").open = false;
  history.replaceState(null, "", location.pathname); // not in the address bar, nor in its history
}
showTour();
fetch("health/ready").then(async (answer) => {
  if (!answer.ok) throw new Error();
  const health = await answer.json();
  at("state").textContent = health.aligns ? "ready" : "ready, for aligned faces only";
  at("state").className = "pill yes";
  at("camera").hidden = !(health.aligns && navigator.mediaDevices);
  await addSamples(health.samples);
  if (given) await count();
}).catch(() => {
  at("state").textContent = "not ready";
  at("state").className = "pill no";
});
