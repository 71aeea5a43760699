// The parts of every page: the switch between light and dark, and menus that close.
import { theme } from "./common.js";

const button = document.getElementById("theme");

button.addEventListener("click", () => {
  const next = theme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("phoneagent-theme", next);
  } catch {
    // storage is off: the choice lasts until the page closes
  }
  document.dispatchEvent(new CustomEvent("theme"));
});

// A menu closes on a click elsewhere, and on Escape.
const menus = () => document.querySelectorAll("details.menu[open]");

document.addEventListener("click", (event) => {
  for (const menu of menus()) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of menus()) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
