// The sound of a live call: both tracks come over a WebSocket. An AudioWorklet plays them or only reports levels.

const RATE = 8000;
const SIDES = ["caller", "agent"];
const LEVEL_FRAMES = 5; // a level covers this many frames of 20 ms
const REFUSED = 4000; // from this code on, the server has refused the listener
const NOT_HERE = 4404; // another process of the server may have the call, and get the next connection
const REASONS = {
  1000: "The call is over.",
  1006: "The connection was lost.",
  4401: "You are signed out.",
  [NOT_HERE]: "The call is not live here.",
  4408: "The connection is too slow to listen.",
  4429: "Too many are listening to this call.",
};

/** µ-law as samples from -1 to 1 (ITU-T G.711). */
const SAMPLES = Float32Array.from({ length: 256 }, (_, code) => {
  const inverted = ~code & 0xff;
  const magnitude = ((((inverted & 0x0f) << 3) + 0x84) << ((inverted & 0x70) >> 4)) - 0x84;
  return (inverted & 0x80 ? -magnitude : magnitude) / 32768;
});

/** One listener. level(side, 0 to 1): a side's loudness. closed(words, isRefused): why it ended. plays: is it heard? */
export class Ear {
  #path; #level; #closed; #plays; #context = null; #socket = null; #player = null; #isOpen = false; #over = false;
  #loudest = [0, 0];
  #frames = [0, 0];

  constructor(path, { level, closed, plays }) {
    [this.#path, this.#level, this.#closed, this.#plays] = [path, level, closed, plays];
  }

  get plays() {
    return this.#plays;
  }

  async open() {
    if (this.#plays) await this.#openPlayer();
    if (this.#over) return;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = (this.#socket = new WebSocket(`${scheme}//${location.host}${this.#path}`));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => (this.#isOpen = true);
    socket.onmessage = ({ data }) => this.#take(new Uint8Array(data));
    socket.onclose = ({ code }) => {
      this.close();
      this.#closed(REASONS[code] ?? "The connection was closed.", !this.#isOpen || (code >= REFUSED && code !== NOT_HERE));
    };
  }

  async #openPlayer() {
    const context = (this.#context = new AudioContext({ latencyHint: "interactive" }));
    await context.audioWorklet.addModule(new URL("listen-worklet.js", import.meta.url));
    if (this.#over) return;
    this.#player = new AudioWorkletNode(context, "listen", { numberOfInputs: 0, outputChannelCount: [2], processorOptions: { rate: RATE } });
    this.#player.connect(context.destination);
    await context.resume();
    // the system may stop the sound, for example for a call on the same phone
    context.addEventListener("statechange", () => {
      if (context.state === "suspended" || context.state === "interrupted") context.resume().catch(() => {});
    });
  }

  close() {
    if (this.#over) return;
    this.#over = true;
    this.#socket?.close();
    this.#context?.close();
  }

  #take(frame) {
    const track = frame[0];
    if (this.#over || track >= SIDES.length) return;
    const samples = Float32Array.from(frame.subarray(1), (code) => SAMPLES[code]);
    let sum = 0;
    for (const each of samples) sum += each * each;
    this.#loudest[track] = Math.max(this.#loudest[track], Math.sqrt(sum / samples.length));
    if (++this.#frames[track] >= LEVEL_FRAMES) {
      this.#level(SIDES[track], Math.min(1, this.#loudest[track] * 4));
      this.#frames[track] = this.#loudest[track] = 0;
    }
    this.#player?.port.postMessage({ track, samples }, [samples.buffer]);
  }
}
