"""A shop's agent on a web page: `phoneagent serve --insecure examples/web_call.py`, then open its address, /.

The page talks to the model by WebRTC, with a key that lives for a minute. The tools run here. `--insecure` needs no
Twilio account; with Twilio's settings, `--local-api` in its place has the shop on the phone too.
"""

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from phoneagent import Agent, PhoneApp, hang_up, tool

STOCK = {"bell": 12, "lamp": 0}


@tool
def in_stock(article: str) -> str:
    """Say how many of an article there are."""
    left = STOCK.get(article.lower())
    return "We do not sell that." if left is None else f"{left} left."


app = PhoneApp(
    Agent(
        name="shop",
        instructions="You answer for a bicycle shop. Look up what is in stock with the tool, and be brief.",
        greeting="The bicycle shop, hello!",
        tools=[in_stock, hang_up],
    )
)

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Call the shop</title>
<style>
  body { font: 1rem/1.5 system-ui; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark }
  button { font: inherit; padding: .5rem 1rem }
  .caller { font-weight: bold }
</style>
<h1>Call the shop</h1>
<p><button id="call">Call</button> <button id="end" disabled>Hang up</button> <span id="state" role="status"></span></p>
<audio id="voice" autoplay></audio>
<div id="words" aria-live="polite"></div>
<script type="module">
const [call, end, state, words] = ["call", "end", "state", "words"].map((id) => document.getElementById(id));
const lines = new Map();
let peer = null;
let microphone = null;

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer.status === 204 ? null : answer.json();
}

function show(id, speaker, text) {
  if (!lines.has(id)) lines.set(id, words.appendChild(document.createElement("p")));
  lines.get(id).className = speaker;
  lines.get(id).textContent = text;
}

function take(event) {
  if (event.type === "response.output_audio_transcript.done") show(event.item_id, "agent", event.transcript);
  if (event.type === "conversation.item.input_audio_transcription.completed")
    show(event.item_id, "caller", event.transcript);
}

function hangUp(why) {
  microphone?.getTracks().forEach((track) => track.stop());
  peer?.close();
  peer = microphone = null;
  [call.disabled, end.disabled, state.textContent] = [false, true, why];
}

async function connect(mine) {
  [call.disabled, end.disabled, state.textContent] = [true, false, "connecting"];
  words.replaceChildren();
  lines.clear();
  const opened = await navigator.mediaDevices.getUserMedia({ audio: true });
  if (peer !== mine) return opened.getTracks().forEach((track) => track.stop()); // you hung up meanwhile
  microphone = opened;
  const session = await post("/console/session", {});
  mine.ontrack = ({ streams }) => { document.getElementById("voice").srcObject = streams[0]; };
  mine.onconnectionstatechange = () => mine.connectionState === "failed" && hangUp("the connection was lost");
  mine.addTrack(opened.getTracks()[0], opened); // throws if you hung up meanwhile
  const events = mine.createDataChannel("oai-events");
  events.onmessage = ({ data }) => take(JSON.parse(data));
  events.onclose = () => peer === mine && hangUp("the call has ended");
  await mine.setLocalDescription(await mine.createOffer());
  const answer = await fetch(session.calls_url, {
    method: "POST",
    headers: { Authorization: `Bearer ${session.value}`, "Content-Type": "application/sdp" },
    body: mine.localDescription.sdp,
  });
  if (!answer.ok) throw new Error(`the model's server answered ${answer.status}`);
  await mine.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  // From here on the agent's tools are at the call, and it greets.
  await post(`/console/session/${session.id}/call`, { call_id: answer.headers.get("Location").split("/").pop() });
  if (peer === mine) state.textContent = "connected";
}

call.onclick = () => {
  const mine = (peer = new RTCPeerConnection());
  connect(mine).catch((error) => peer === mine && hangUp(`it did not work: ${error.message}`));
};
end.onclick = () => hangUp("you hung up");
</script>
</html>
"""


async def page(request: Request) -> Response:
    """Return the page that calls."""
    return HTMLResponse(PAGE)


app.add_route("/", page)
