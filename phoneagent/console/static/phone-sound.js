// The browser's microphone and loudspeaker, with the audio thread of a call between them.

const LATENCY_EVERY_MS = 1000;
const TONE_SECONDS = 0.12;
const ROWS = ["123", "456", "789", "*0#"];
const LOW = [697, 770, 852, 941];
const HIGH = [1209, 1336, 1477];

const REASONS = {
  NotAllowedError: "The browser may not use the microphone. Allow it beside the address of this page, then call again.",
  NotFoundError: "There is no microphone. Connect one, then call again.",
  NotReadableError: "The microphone does not open. Close the program that uses it, then call again.",
};

/** The error of missing sound; the message is for the user. */
export class NoSound extends Error {}

/**
 * The sound of one call. It calls `onFrame({frame, said, heard})`, `onMark({name, streamSid})`, `onWait(seconds)` and
 * `onLost()`.
 */
export class Sound {
  /** Open the microphone. Throws NoSound. */
  static async open() {
    if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
      throw new NoSound("Browsers open a microphone only for https and for this machine. Open this page by https.");
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true } });
    } catch (error) {
      throw new NoSound(REASONS[error.name] ?? `The microphone does not open: ${error.name}.`);
    }
    const context = new AudioContext({ latencyHint: "interactive" });
    try {
      await context.audioWorklet.addModule(new URL("phone-worklet.js", import.meta.url));
      await context.resume();
      return new Sound(context, stream);
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      context.close().catch(() => {});
      throw new NoSound(`This browser cannot play the call: ${error.message}`);
    }
  }

  constructor(context, stream) {
    this.onFrame = this.onMark = this.onWait = this.onLost = () => {};
    this.context = context;
    this.stream = stream;
    this.node = new AudioWorkletNode(context, "phone", { outputChannelCount: [1] });
    this.node.port.onmessage = ({ data }) => {
      if (data.frame !== undefined) this.onFrame(data);
      else if (data.mark !== undefined) this.onMark(data.mark);
      else this.onWait(data.wait);
    };
    context.createMediaStreamSource(stream).connect(this.node).connect(context.destination);
    [this.track] = stream.getAudioTracks();
    this.track.addEventListener("ended", () => this.onLost());
    // the system may stop the sound, for example for a call on the same phone
    context.addEventListener("statechange", () => {
      if (context.state === "suspended" || context.state === "interrupted") context.resume().catch(() => {});
    });
    this.#tellLatency();
    this.timer = setInterval(() => this.#tellLatency(), LATENCY_EVERY_MS);
  }

  /** Seconds from the mouth to a full frame, as far as the browser reports them. */
  get inputSeconds() {
    return 0.02 + (this.track.getSettings().latency ?? 0);
  }

  play(media) {
    this.node.port.postMessage({ media }, [media.buffer]);
  }

  /** Take a mark; `onMark` gets it back with its stream. */
  mark(name, streamSid) {
    this.node.port.postMessage({ mark: { name, streamSid } });
  }

  clear() {
    this.node.port.postMessage({ clear: true });
  }

  /** Mute or unmute the microphone. */
  setOpen(open) {
    this.node.port.postMessage({ open });
  }

  setLine(line) {
    this.node.port.postMessage({ line });
  }

  /** Play the tone of a key to the caller. */
  tone(key) {
    const row = ROWS.findIndex((keys) => keys.includes(key));
    if (row < 0) return;
    const gain = new GainNode(this.context, { gain: 0.06 });
    gain.connect(this.context.destination);
    for (const frequency of [LOW[row], HIGH[ROWS[row].indexOf(key)]]) {
      const oscillator = new OscillatorNode(this.context, { frequency });
      oscillator.connect(gain);
      oscillator.start();
      oscillator.stop(this.context.currentTime + TONE_SECONDS);
    }
  }

  close() {
    clearInterval(this.timer);
    this.node.port.onmessage = null; // what is on its way is of a call that is over
    this.node.port.postMessage({ stop: true });
    for (const track of this.stream.getTracks()) track.stop();
    this.context.close().catch(() => {});
  }

  #tellLatency() {
    this.node.port.postMessage({ latency: this.context.outputLatency || this.context.baseLatency || 0 });
  }
}
