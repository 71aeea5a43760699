// The picture: planets that move, and a view that flies to what the agent's tools show.

const PLANETS = [ // name, distance, radius, colour, and how fast it is
  ["mercury", 80, 6, "#b5a292", 4.1], ["venus", 115, 10, "#e3c07c", 1.6], ["earth", 155, 11, "#5b9bf0", 1],
  ["mars", 195, 8, "#d8643f", 0.53], ["jupiter", 265, 26, "#d6a878", 0.084], ["saturn", 335, 22, "#e5cf9a", 0.034],
  ["uranus", 395, 16, "#8fd6dc", 0.012], ["neptune", 450, 16, "#5671e6", 0.006],
];
const OF_THE_PICTURE = new Set(["show_planet", "show_all", "set_speed"]);
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

const picture = document.getElementById("sky");
const caption = document.getElementById("caption");
let sky = { planet: null, orbits: true, speed: 1 };
let view = { x: 0, y: 0, size: 1000 };

function make(tag, attributes, parent) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent.append(element);
  return element;
}

const orbits = make("g", {}, picture);
make("circle", { r: 42, fill: "#ffcf5c" }, picture);
const planets = PLANETS.map(([name, distance, radius, fill, speed], index) => {
  make("circle", { r: distance, class: "orbit" }, orbits);
  const group = make("g", { "data-planet": name }, picture);
  make("circle", { r: radius, fill }, group);
  make("text", { class: "name", y: radius + 18 }, group).textContent = name;
  return { name, distance, radius, speed, group, angle: index * 2.4 };
});

let before = 0;
function draw(now) {
  const seconds = Math.min(0.1, (now - before) / 1000);
  before = now;
  for (const planet of planets) {
    planet.angle += seconds * planet.speed * sky.speed * 0.4;
    [planet.x, planet.y] = [Math.cos(planet.angle) * planet.distance, Math.sin(planet.angle) * planet.distance];
    planet.group.setAttribute("transform", `translate(${planet.x} ${planet.y})`);
  }
  const shown = planets.find(({ name }) => name === sky.planet);
  const goal = shown ? { x: shown.x, y: shown.y, size: shown.radius * 9 } : { x: 0, y: 0, size: 1000 };
  for (const key of ["x", "y", "size"]) view[key] += (goal[key] - view[key]) * (still ? 1 : Math.min(1, seconds * 3));
  picture.setAttribute("viewBox", `${view.x - view.size / 2} ${view.y - view.size / 2} ${view.size} ${view.size}`);
  requestAnimationFrame(draw);
}

function show(next) {
  sky = next;
  picture.dataset.planet = sky.planet ?? "";
  orbits.style.display = sky.orbits ? "" : "none";
  for (const { name, group } of planets) group.classList.toggle("shown", name === sky.planet);
  caption.textContent = sky.planet ? `${sky.planet}, moons: ${sky.moons ?? "?"}` : "The solar system";
}

// A stream that breaks off comes back by itself, from where it stopped.
const events = new EventSource("events");
events.addEventListener("tool_returned", (message) => {
  const { name, output } = JSON.parse(message.data);
  if (!OF_THE_PICTURE.has(name)) return;
  try {
    const next = JSON.parse(output);
    if (typeof next === "object" && next !== null && "speed" in next) show(next);
  } catch {
    // the tool was refused: the picture stays
  }
});
events.addEventListener("error", () => {
  if (events.readyState === EventSource.CLOSED) caption.textContent = "No events: sign in at /console, and reload.";
});

requestAnimationFrame(draw);
