// The buttons of a live call: listen in, say, note, mute, interrupt, transfer and hang up.
import { base, goesOn, h, newer, now, request } from "./common.js";
import { Ear } from "./listen.js";
import { newSid } from "./phone-stream.js";

const LOOK_MS = 2000;
const MAX_TEXT_CHARS = 4000;

const section = document.getElementById("call-actions");
const sid = section.dataset.callSid;
const path = `/calls/${encodeURIComponent(sid)}`;

let summary = null;
let ear = null; // the levels for the waves while the page is visible; audible after "Listen in"
let isRefused = false; // then there are no waves
let isMissing = false; // the first answer was that there is no such call: it may have just begun in another process
let isSending = false;
let composed = { words: "", key: "" }; // what is to be said, with a key by which the server does it once

// --- the buttons ---

const listen = button("Listen in", () => open(!ear?.plays), { "aria-pressed": "false" });
const mute = button("Mute the agent", () => act("mute", { muted: !summary.muted }), { "aria-pressed": "false" });
const interrupt = button("Interrupt", () => act("interrupt", {}));
const transfer = button("Transfer", () => transferring.showModal());
const hangUp = button("Hang up", () => confirmation.showModal(), { class: "danger" });
const told = h("span", { class: "told muted", role: "status" });

const text = h("textarea", { id: "call-text", rows: "2", maxlength: String(MAX_TEXT_CHARS), dir: "auto", required: true });
const how = h("select", { id: "call-how" },
  h("option", { value: "exactly" }, "Say exactly"),
  h("option", { value: "own" }, "Say in its own words"),
  h("option", { value: "note" }, "Note to the model"));
const send = h("button.primary", { type: "submit", disabled: true }, "Send");
const form = h("form.say", { onsubmit: sendText },
  h("div.field", {}, h("label", { for: "call-how" }, "The agent is to"), how),
  h("div.field.text", {}, h("label", { for: "call-text" }, "Text"), text),
  send);

const confirmation = h("dialog", { "aria-labelledby": "hang-up-title", class: "confirm" },
  h("h2", { id: "hang-up-title" }, "Hang up?"),
  h("p", {}, "The call ends for the caller."),
  h("form.choices", { method: "dialog" },
    h("button", { value: "" }, "Cancel"),
    h("button", { value: "now", class: "danger" }, "Hang up now"),
    h("button", { value: "goodbye", class: "primary" }, "Say goodbye first")));
confirmation.addEventListener("close", () => {
  const chosen = confirmation.returnValue;
  confirmation.returnValue = "";
  if (chosen) act("hang-up", { goodbye: chosen === "goodbye" });
});

const to = h("input", { id: "transfer-to", maxlength: "256", autocomplete: "off", required: true });
const asked = h("select", { id: "transfer-how" },
  h("option", { value: "" }, "As the agent would"),
  h("option", { value: "cold" }, "Connect them at once"),
  h("option", { value: "warm" }, "Ask the other party first"));
const transferring = h("dialog", { "aria-labelledby": "transfer-title", class: "confirm" },
  h("h2", { id: "transfer-title" }, "Transfer the call"),
  h("form", { method: "dialog" },
    h("div.field", {}, h("label", { for: "transfer-to" }, "To: a name of the agent's list, a number, sip:… or client:…"), to),
    h("div.field", {}, h("label", { for: "transfer-how" }, "How"), asked),
    h("div.choices", {},
      h("button", { type: "button", onclick: () => transferring.close() }, "Cancel"), // Enter presses the first button that submits
      h("button", { value: "transfer", class: "primary" }, "Transfer"))));
transferring.addEventListener("close", () => {
  const chosen = transferring.returnValue;
  transferring.returnValue = "";
  if (chosen) act("transfer", { to: to.value.trim(), ...(asked.value && { warm: asked.value === "warm" }) });
});

text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) form.requestSubmit();
});

const card = h("div", { class: "card actions", hidden: section.dataset.live !== "true" },
  h("div.buttons", {}, listen, mute, interrupt, transfer, told, hangUp), form, confirmation, transferring);
section.append(card);
look();

function button(label, onclick, properties = {}) {
  return h("button", { type: "button", onclick, disabled: true, ...properties }, label); // until the call is known
}

// --- actions ---

async function act(name, body, key) {
  tell("");
  try {
    const accepted = await request(`${path}/${name}`, { method: "POST", body, key });
    summary = { ...summary, muted: accepted.muted };
    tell({ say: "Will be said.", note: "Noted.", mute: "Muted.", unmute: "Heard again.", interrupt: "Interrupted.", transfer: "Will be transferred.", "hang-up": "Hanging up." }[accepted.operation]);
    show();
    return true;
  } catch (error) {
    tell(error.message, true);
    return false;
  }
}

async function sendText(event) {
  event.preventDefault();
  const words = text.value.trim();
  if (!words || isSending || send.disabled) return; // a form is sent by its keys even if its button is disabled
  const [name, body] = how.value === "note" ? ["note", { text: words }] : ["say", { text: words, exactly: how.value === "exactly" }];
  const whole = JSON.stringify([name, body]);
  if (composed.words !== whole) composed = { words: whole, key: newSid("") }; // the same words keep it until they are accepted
  isSending = send.disabled = true;
  const isDone = await act(name, body, composed.key);
  isSending = false;
  show();
  if (isDone) {
    composed = { words: "", key: "" };
    if (text.value.trim() === words) text.value = ""; // not what was typed meanwhile
  }
  text.focus();
}

function tell(words, isProblem = false) {
  told.textContent = words;
  told.classList.toggle("bad", isProblem);
}

// --- listening ---

/** Open the sound of the call, to play it or for its waves. It replaces the open one. */
async function open(plays) {
  if (plays) tell("");
  ear?.close();
  const opened = new Ear(`${base}${path}/audio`, {
    plays,
    level: (side, level) => document.dispatchEvent(new CustomEvent("call-level", { detail: { side, level, at: now() } })),
    closed: (words, refused) => lose(opened, words, refused),
  });
  ear = opened;
  showListening();
  try {
    await opened.open();
  } catch (error) {
    opened.close();
    lose(opened, `No sound: ${error.message}`, false);
  }
}

function lose(closed, words, refused) {
  if (ear !== closed) return;
  ear = null;
  isRefused = refused;
  if (closed.plays) tell(words, true);
  showListening();
}

function close() {
  ear?.close();
  ear = null;
}

// --- the state of the call ---

async function look() {
  if (!section.isConnected) return; // the page has found that there is no such call
  try {
    if (!document.hidden || !summary) summary = newer(summary, await request(path));
    show();
  } catch (error) {
    isRefused = false; // the server is away; the page itself says so
    if (error.status === 404 && (summary || isMissing)) { // there is no such call, or it ended and was not recorded
      summary = { ...summary, state: "ended" };
      show();
    }
    isMissing = error.status === 404;
  }
  if (summary?.state === "ended") return;
  setTimeout(look, LOOK_MS);
}

function show() {
  const isLive = goesOn(summary);
  card.hidden = !isLive;
  section.dataset.live = String(isLive);
  if (!isLive) {
    close();
    for (const each of [confirmation, transferring]) if (each.open) each.close();
    return;
  }
  const isClosing = summary.floor === "closing";
  for (const each of [listen, hangUp]) each.disabled = false;
  for (const each of [mute, interrupt, transfer]) each.disabled = isClosing;
  send.disabled = isClosing || isSending;
  showListening();
  mute.setAttribute("aria-pressed", String(Boolean(summary.muted)));
  mute.textContent = summary.muted ? "Unmute the agent" : "Mute the agent";
  follow();
}

function showListening() {
  listen.setAttribute("aria-pressed", String(Boolean(ear?.plays)));
  listen.textContent = ear?.plays ? "Stop listening" : "Listen in";
}

/** Show the waves while the page is visible. Listening goes on in a hidden tab. */
function follow() {
  if (document.hidden && !ear?.plays) close();
  else if (!document.hidden && !ear && !isRefused && goesOn(summary)) open(false);
}

document.addEventListener("visibilitychange", follow);
addEventListener("pagehide", close);
