// The recording of an ended call: a player whose position is the cursor of the timeline.
import { base, h } from "./common.js";

const HEAD_BYTES = 44; // of a WAV file

export class Recording {
  #place; #path; #name; #player = null; #offset = 0; #asked = false; #drawing = 0;

  /** `path` is the URL path of the sound, and `name` that of its file; the player goes into `place`. */
  constructor(place, path, name) {
    [this.#place, this.#path, this.#name] = [place, path, name];
    document.addEventListener("call-seek", ({ detail }) => this.#seek(detail.at_ms));
  }

  /** Show the player if there is sound, which may have been deleted by now. `startedAt` is when the call began. */
  async show(startedAt) {
    if (this.#asked) return;
    this.#asked = true;
    const room = h("div.player"); // reserved from the start, so that nothing moves when the sound is found
    this.#place.replaceChildren(room);
    const source = base + this.#path;
    let answer;
    try {
      answer = await fetch(source, { headers: { Range: `bytes=0-${HEAD_BYTES - 1}` } });
      await answer.arrayBuffer();
    } catch {
      this.#asked = false; // the server is away: try again when the call is next read
      return;
    }
    if (!answer.ok) {
      if (answer.status === 404) room.remove();
      else room.append(
        h("span.muted", {}, `The recording cannot be read now: the server answered ${answer.status}.`),
        h("button", { type: "button", onclick: () => { this.#asked = false; this.show(startedAt); } }, "Try again"));
      return;
    }
    this.#offset = Math.max(0, Date.parse(answer.headers.get("recording-started-at")) - startedAt) || 0;
    this.#player = h("audio", {
      controls: true, preload: "metadata", src: source, "aria-label": "Recording",
      onplay: () => this.#follow(), onseeking: () => this.#point(), ontimeupdate: () => this.#point(),
    });
    room.append(this.#player, h("a.button", { href: source, download: this.#name }, "Save as WAV"));
  }

  #point() {
    const at_ms = this.#offset + this.#player.currentTime * 1000;
    document.dispatchEvent(new CustomEvent("call-cursor", { detail: { at_ms } }));
  }

  /** Move the cursor with each frame while the sound plays: the player reports its position only every 250 ms. */
  #follow() {
    cancelAnimationFrame(this.#drawing);
    this.#point();
    if (!this.#player.paused) this.#drawing = requestAnimationFrame(() => this.#follow());
  }

  #seek(at_ms) {
    if (this.#player) this.#player.currentTime = Math.max(0, at_ms - this.#offset) / 1000;
  }
}
