// The page of the phone: its keys, its meters, the transcript, and the settings of the next call.

import { base, duration, h } from "./common.js";
import { BrowserCall } from "./phone-call.js";
import { NoSound, Sound } from "./phone-sound.js";

const $ = (id) => document.getElementById(id);
const handset = $("handset");
const settings = $("settings");
const MAX_TURNS = 500; // on this page; the call's own page has all of them
const MAX_DIALED = 8;
const REOPEN_MS = 1000;
const KEYS = "0123456789*#";

let call = null;
let sound = null;
let muted = false;
let held = false;
let upSince = null;
let begun = 0; // attempts so far: a call that is given up while its microphone opens is not made

// --- the call ---

async function begin() {
  begun += 1;
  const attempt = begun;
  const { called, caller, turns } = Object.fromEntries(new FormData(settings)); // read before its fields are disabled
  show("dialing", "Opening the microphone…");
  problem("");
  let opened;
  try {
    opened = await Sound.open();
  } catch (error) {
    if (attempt !== begun) return;
    problem(error instanceof NoSound ? error.message : `The call failed: ${error.message}`);
    show("idle", "No call was made");
    return;
  }
  if (attempt !== begun) {
    opened.close();
    return;
  }
  sound = opened;
  $("turns").replaceChildren();
  $("no-turns").hidden = true;
  $("waits").textContent = "";
  $("timer").textContent = "";
  $("call-link").hidden = true;
  remember(called);
  sound.onLost = () => problem("The microphone is gone. The agent hears silence; connect it and call again.");
  sound.onWait = (seconds) => showWaits(seconds);
  call = new BrowserCall({ called, caller, turns, sound, onState: show, onSid: follow });
  call.onProblem = problem;
  call.onLevels = (said, heard) => {
    $("meter-you").style.setProperty("--level", said.toFixed(3));
    $("meter-agent").style.setProperty("--level", heard.toFixed(3));
  };
  upSince = null;
  muted = held = false;
  applySound();
  await call.run();
  sound.close();
  sound = call = null;
  for (const id of ["meter-you", "meter-agent"]) $(id).style.setProperty("--level", "0");
  handset.dataset.state = "idle";
  showControls();
}

function show(state, words) {
  handset.dataset.state = state === "over" ? "idle" : state;
  $("state").textContent = words;
  if (state === "up") upSince ??= Date.now();
  showControls();
}

function showControls() {
  const isIdle = handset.dataset.state === "idle";
  $("call-label").textContent = isIdle ? "Call the agent" : "Hang up";
  $("mute").disabled = isIdle;
  $("mute").setAttribute("aria-pressed", String(muted));
  $("turns-choice").disabled = !isIdle;
  $("talk").hidden = !pushes();
  $("talk").disabled = isIdle;
  $("erase").hidden = !isIdle || pushes() || !settings.elements.called.value;
  $("talk").classList.toggle("held", held);
  $("display-number").textContent = settings.elements.called.value || (isIdle ? "" : "The agent");
}

function problem(words) {
  $("problem").textContent = words;
  $("problem").hidden = !words;
}

function showWaits(seconds) {
  const there = Math.round(1000 * sound.inputSeconds);
  $("waits").textContent = `This browser adds ${there} ms to the agent, ${Math.round(1000 * seconds)} ms back`;
  $("waits").dataset.there = there;
  $("waits").dataset.back = Math.round(1000 * seconds);
}

setInterval(() => {
  if (call && upSince) $("timer").textContent = duration(Date.now() - upSince);
}, 500);

// --- the transcript ---

function follow(sid) {
  $("call-link").href = `${base}/console/calls/${sid}`;
  $("call-link").hidden = false;
  $("call-link").dataset.callSid = sid;
  const seen = new Set();
  const mine = call;
  const open = () => {
    const events = new EventSource(`${base}/calls/${sid}/events`);
    for (const [name, render] of Object.entries(RENDER)) {
      events.addEventListener(name, ({ data, lastEventId }) => {
        if (seen.has(lastEventId) || $("call-link").dataset.callSid !== sid) return;
        seen.add(lastEventId);
        add(render(JSON.parse(data)));
        if (name === "call_ended") events.close();
      });
    }
    events.addEventListener("error", () => {
      // the server has no events of the call yet, or has restarted
      if (events.readyState === EventSource.CLOSED && !mine.over) setTimeout(open, REOPEN_MS);
    });
  };
  open();
}

const event = (words, bad) => h(bad ? "li.turn.event.bad" : "li.turn.event", {}, words);

const RENDER = {
  turn_ended: ({ turn }) => {
    const heard = turn.role === "agent" ? turn.heard_text : turn.text;
    const rest = turn.text.startsWith(heard) ? turn.text.slice(heard.length) : "";
    const who = turn.role === "agent" ? (turn.agent ?? "Agent") : "You";
    return h(`li.turn.${turn.role}`, { "data-role": turn.role },
      h("span.who", {}, who),
      h("span.heard", { dir: "auto" }, heard || "…"),
      rest && h("s", { dir: "auto", title: "not heard" }, rest));
  },
  barge_in: () => event("You interrupted"),
  agent_resumed: () => event("The agent went on: that was no interruption"),
  tool_called: ({ name, arguments: given }) => event(`${name} ${given}`),
  tool_returned: ({ name, output, ms }) => event(`${name} returned after ${ms} ms: ${output}`),
  key_pressed: ({ digit }) => event(digit ? `Key ${digit}` : "A key"),
  trouble: ({ what }) => event(what, true),
  call_ended: ({ ended_by: by, reason }) => event(`Ended by the ${by}: ${reason}`),
};

function add(item) {
  const turns = $("turns");
  const isAtEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 60;
  turns.append(item);
  while (turns.children.length > MAX_TURNS) turns.firstChild.remove();
  if (isAtEnd) turns.scrollTop = turns.scrollHeight;
}

// --- keys and buttons ---

function press(key) {
  const button = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  button.classList.add("pressed");
  setTimeout(() => button.classList.remove("pressed"), 140);
  if (call) {
    sound.tone(key);
    call.press(key);
  } else {
    settings.elements.called.value += key;
    showControls();
  }
}

const pushes = () => settings.elements.turns.value === "manual";

function hold(now) {
  if (now === held || (now && !(call?.sid && pushes()))) return;
  held = now;
  applySound();
  call?.turn(held ? "begin" : "end");
}

function applySound() {
  sound?.setOpen(!muted && (held || !pushes()));
  const { delay, loss, noise } = settings.elements;
  sound?.setLine({ delay: Number(delay.value), loss: Number(loss.value) / 100, noise: Number(noise.value) / 100 });
  showControls();
}

function remember(number) {
  const list = dialed().filter((each) => each !== number);
  if (!number) return;
  try {
    localStorage.setItem("phoneagent-dialed", JSON.stringify([number, ...list].slice(0, MAX_DIALED)));
  } catch {
    // storage is off: the numbers are not remembered
  }
  showDialed();
}

function dialed() {
  try {
    const kept = JSON.parse(localStorage.getItem("phoneagent-dialed") ?? "[]");
    return Array.isArray(kept) ? kept.map(String).slice(0, MAX_DIALED) : [];
  } catch {
    return [];
  }
}

function showDialed() {
  $("dialed").replaceChildren(...dialed().map((value) => h("option", { value })));
}

function showSliders() {
  for (const [name, unit] of [["delay", "ms"], ["loss", "%"], ["noise", "%"]]) {
    settings.querySelector(`output[for=${name}]`).textContent = `${settings.elements[name].value} ${unit}`;
  }
}

$("call").addEventListener("click", () => {
  if (call) {
    call.hangUp();
  } else if (handset.dataset.state === "idle") {
    begin();
  } else {
    begun += 1;
    show("idle", "No call was made");
  }
});
$("mute").addEventListener("click", () => {
  muted = !muted;
  applySound();
});
$("pad").addEventListener("click", ({ target }) => {
  const button = target.closest("[data-key]");
  if (button) press(button.dataset.key);
});
$("erase").addEventListener("click", () => {
  settings.elements.called.value = settings.elements.called.value.slice(0, -1);
  showControls();
});
$("talk").addEventListener("pointerdown", (event) => {
  event.target.setPointerCapture?.(event.pointerId);
  hold(true);
});
for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
  $("talk").addEventListener(name, () => hold(false));
}

const isField = (target) => target.matches?.("input:not([type=range], [type=radio]), select, textarea");
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || isField(event.target)) return;
  if (event.key === " " && call && pushes()) {
    event.preventDefault();
    if (!event.repeat) hold(true);
  } else if (KEYS.includes(event.key) && !event.repeat) {
    press(event.key);
  }
});
document.addEventListener("keyup", (event) => {
  if (event.key !== " " || !held) return;
  event.preventDefault();
  hold(false);
});
addEventListener("blur", () => hold(false));
settings.addEventListener("input", () => {
  showSliders();
  applySound();
});
settings.addEventListener("submit", (event) => event.preventDefault());
addEventListener("beforeunload", (event) => { if (call) event.preventDefault(); }); // to leave the page is to hang up
addEventListener("pagehide", () => call?.hangUp());

showDialed();
showSliders();
showControls();
