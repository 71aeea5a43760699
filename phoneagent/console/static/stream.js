// An event stream that reconnects by itself, and misses nothing.
import { base, request, Refused, showConnection } from "./common.js";

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 15_000;
// A browser has six connections for all tabs of a server: a hidden tab frees its own, and one that begins hidden has none
const HIDDEN_MS = 60_000;

/**
 * Follow the events at a path.
 *
 * names: the kinds of events. on(event): gets each one. resync(): reads again what the events are about; it is called
 * whenever the stream begins or continues: events may have been missed. done(): the stream is over for good (HTTP 204).
 */
export class Stream {
  #path; #names; #on; #resync; #done; #source = null; #wait = FIRST_WAIT_MS; #timer = 0; #hidden = 0; #life = new AbortController();

  constructor(path, { names, on, resync, done = () => {} }) {
    [this.#path, this.#names, this.#on, this.#resync, this.#done] = [path, names, on, resync, done];
    const { signal } = this.#life;
    document.addEventListener("visibilitychange", () => this.#look(), { signal });
    addEventListener("pagehide", () => this.#source?.close(), { signal });
    addEventListener("pageshow", (event) => event.persisted && this.#open(), { signal });
    if (document.visibilityState === "hidden") this.#resync();
    else this.#open();
  }

  close() {
    this.#life.abort();
    clearTimeout(this.#timer);
    clearTimeout(this.#hidden);
    this.#source?.close();
  }

  #open() {
    clearTimeout(this.#timer);
    this.#source?.close();
    if (this.#life.signal.aborted) return;
    const source = (this.#source = new EventSource(base + this.#path));
    source.onopen = () => {
      this.#wait = FIRST_WAIT_MS;
      showConnection("live");
      this.#resync(); // even after a break: without an earlier event, the server cannot know that some were missed
    };
    source.onerror = () => {
      if (source !== this.#source || this.#life.signal.aborted) return;
      showConnection("waiting");
      if (source.readyState === EventSource.CLOSED) this.#ask();
    };
    for (const name of this.#names) {
      source.addEventListener(name, (message) => {
        const event = JSON.parse(message.data);
        if (event.type === "missed") this.#resync();
        else this.#on(event);
      });
    }
  }

  /** The server refused: ask why, because an EventSource does not say. */
  async #ask() {
    const again = () => {
      this.#timer = setTimeout(() => this.#open(), this.#wait);
      this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
    };
    try {
      await request("/calls?limit=1"); // goes to the sign-in page if the session is over
    } catch (problem) {
      if (!(problem instanceof Refused && problem.status === 401)) again();
      return;
    }
    if (await this.#done()) {
      this.close();
      showConnection("ended");
    } else {
      again();
    }
  }

  #look() {
    clearTimeout(this.#hidden);
    if (document.visibilityState === "hidden") {
      this.#hidden = setTimeout(() => {
        this.#source?.close();
        this.#source = null;
      }, HIDDEN_MS);
    } else if (this.#source === null || this.#source.readyState === EventSource.CLOSED) {
      this.#open();
    }
  }
}

const NUMBERS = "phoneagent-numbers";

function kept() {
  try {
    return sessionStorage.getItem(NUMBERS);
  } catch {
    return null; // storage is off: numbers begin hidden
  }
}

/** The button that shows whole phone numbers. Returns a function that gives the suffix for an API path. */
export function numbersButton(changed) {
  const button = document.getElementById("numbers");
  let shown = kept() === "full";
  const label = () => {
    button.textContent = shown ? "Hide numbers" : "Show numbers";
  };
  label();
  button.addEventListener("click", () => {
    shown = !shown;
    try {
      sessionStorage.setItem(NUMBERS, shown ? "full" : "masked");
    } catch {
      // storage is off: the choice lasts until the page closes
    }
    label();
    changed();
  });
  return () => (shown ? "numbers=full" : "numbers=masked");
}
