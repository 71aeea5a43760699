// A link on another site leads here even if the browser is signed in: the cookie is only sent from our own pages.
import { base } from "./common.js";

const form = document.querySelector(".signin form");

if (!document.getElementById("problem")) {
  const answer = await fetch(`${base}/calls?limit=1`, { redirect: "manual" }).catch(() => null);
  if (answer?.ok) location.replace(base + form.elements.next.value);
}
