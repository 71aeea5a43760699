// The code that the pages share: paths, requests, elements, numbers and dates, and the event stream.

export const base = document.documentElement.dataset.base;

export function theme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Go to the sign-in page, which leads back here. */
export function signIn() {
  const here = location.pathname.slice(base.length) + location.search;
  location.assign(`${base}/console/sign-in?next=${encodeURIComponent(here)}`);
}

const LEAST_SKEW_MS = 3000; // the server gives its time in seconds
let skewMs = 0;

/** The approximate time of the server's clock: a browser's own may be wrong by hours. */
export const now = () => Date.now() - skewMs;

const REQUEST_MS = 30_000; // longer than the longest wait for messages

/** Request a path of the API and return its JSON. `body` is sent as JSON; `key` has the request done once. Throws Refused with the problem's detail. */
export async function request(path, { method = "GET", body, key, signal = AbortSignal.timeout(REQUEST_MS) } = {}) {
  const headers = { ...(body !== undefined && { "Content-Type": "application/json" }), ...(key && { "Idempotency-Key": key }) };
  const answer = await fetch(base + path, {
    method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
  }).catch((error) => {
    if (error.name !== "TimeoutError") throw error;
    throw new Error(`the server has not answered for ${REQUEST_MS / 1000} s: close other tabs of the console`);
  });
  const skew = Date.now() - Date.parse(answer.headers.get("date") ?? "");
  if (Number.isFinite(skew)) skewMs = Math.abs(skew) < LEAST_SKEW_MS ? 0 : skew;
  if (answer.status === 401) signIn();
  const content = answer.headers.get("content-type")?.includes("json") ? await answer.json() : null;
  if (!answer.ok) throw new Refused(answer.status, content?.detail ?? `the server answered ${answer.status}`);
  return content;
}

const LONGEST_MS = 4 * 3600_000; // Twilio ends a call then: an older one without an end was lost in a crash

/** Whether a call goes on: it is live in the process that answers, or open in the database and so in another one. */
export const goesOn = (call) => call?.state === "live" || (call?.state === "open" && now() - Date.parse(call.started_at) < LONGEST_MS);

/** The newer of two answers about a call. Only the process of the call knows its floor and its state: they are kept. */
export function newer(known, found) {
  return found.state === "open" ? { ...known, ...found, floor: known?.floor ?? null, muted: known?.muted ?? null } : found;
}

/** Make an element: h("p", {class: "muted", onclick: f}, "text", child). Text is never read as HTML. */
export function h(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, each] of Object.entries(value)) element.style.setProperty(name, each);
    else if (key === "class") element.className = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  return ms < 10_000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`;
}

export function cost(value) {
  if (!value) return "–";
  return `${value.at_least ? "≥ " : ""}$${Number(value.usd).toFixed(4)}`;
}

const TIME = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat([], { month: "short", day: "numeric" });
const YEAR = new Intl.DateTimeFormat([], { year: "numeric", month: "short", day: "numeric" });

export const timeOfDay = (date) => TIME.format(new Date(date));

export function day(date) {
  const given = new Date(date);
  if (given.toDateString() === new Date().toDateString()) return "Today";
  return (given.getFullYear() === new Date().getFullYear() ? DAY : YEAR).format(given);
}

/** Show how the page is connected: "live", "waiting", or "" for a page that needs no connection. */
export function showConnection(state, words) {
  const mark = document.getElementById("connection");
  mark.hidden = !state;
  mark.dataset.state = state;
  mark.textContent = words ?? { live: "Connected", waiting: "Reconnecting…", ended: "Ended" }[state] ?? "";
}

/** Save a text as a file. */
export function download(name, type, text) {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Return lines of comma-separated values. A cell that a spreadsheet would run as a formula gets a leading quote. */
export function csv(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    const safe = /^[=+\-@\t\r]/.test(text) && !/^[+-]?[\d.]+$/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}
