"use strict";
const at = (id) => document.getElementById(id);
let face = null;
let stream = null;

function show(blob) {
  face = blob;
  URL.revokeObjectURL(at("preview").src);
  at("preview").src = URL.createObjectURL(blob);
  at("preview").hidden = false;
}

function tell(text, kind) {
  at("result").textContent = text;
  at("result").className = kind;
  const line = document.createElement("li");
  line.textContent = text;
  at("history").prepend(line);
}

function stopCamera() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  at("video").hidden = at("shoot").hidden = true;
}

at("file").addEventListener("change", () => {
  if (at("file").files.length) show(at("file").files[0]);
});

at("camera").addEventListener("click", async () => {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
  } catch (error) {
    tell("no webcam: " + error.message, "no");
    return;
  }
  at("video").srcObject = stream;
  at("video").hidden = at("shoot").hidden = false;
  await at("video").play();
});

at("shoot").addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  canvas.width = at("video").videoWidth;
  canvas.height = at("video").videoHeight;
  canvas.getContext("2d").drawImage(at("video"), 0, 0);
  canvas.toBlob((blob) => { show(blob); stopCamera(); }, "image/png");
});

function outcome(action, subject, answer) {
  const score = "distance" in answer ? ` (${answer.distance} differ, ${answer.threshold} allowed)` : "";
  switch (action) {
    case "enroll": return [`${subject} is enrolled`, "yes"];
    case "renew": return [`${subject} has a new template under a new key`, "yes"];
    case "revoke": return [`${subject} is revoked (${answer.revoked} templates)`, "yes"];
    case "verify": return answer.match ? [`match: this is ${subject}${score}`, "yes"] : [`no match: not ${subject}${score}`, "no"];
    default: return answer.length ? ["this is " + answer.map((each) => each.subject).join(", "), "yes"] : ["nobody who is enrolled", "no"];
  }
}

async function ask(action) {
  const subject = at("subject").value;
  const form = new FormData();
  if (action !== "identify") form.append("subject", subject);
  if (action !== "revoke") {
    if (!face) return tell("choose a face first", "no");
    form.append(action === "enroll" || action === "renew" ? "images" : "image", face, "face");
  }
  const path = `v1/${encodeURIComponent(at("application").value)}/${action}`;
  const answer = await fetch(path, {
    method: "POST", body: form, headers: { Authorization: "Bearer " + at("token").value },
  });
  const content = await answer.json();
  if (answer.ok) return tell(...outcome(action, subject, content));
  const reason = typeof content.detail === "string" ? content.detail : content.detail.map((each) => `${each.loc.join(".")}: ${each.msg}`).join("; ");
  tell(`${answer.status === 410 ? "refused, the template is revoked" : "refused"}: ${reason}`, "no");
}

document.querySelectorAll("[data-action]").forEach((button) => button.addEventListener("click", async () => {
  button.disabled = true;
  try { await ask(button.dataset.action); } catch (error) { tell("the service does not answer: " + error.message, "no"); }
  button.disabled = false;
}));

fetch("health").then((answer) => answer.json()).then((health) => {
  at("state").textContent = health.aligns ? "Photographs are aligned by the service." : "This service takes aligned faces of 112 x 112 pixels (no detector is installed).";
  at("camera").hidden = !health.aligns;
}).catch(() => { at("state").textContent = "The service does not answer."; });
