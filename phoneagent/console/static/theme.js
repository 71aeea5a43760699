// The choice of light or dark, before the first paint. Without a choice, the system decides.
try {
  const theme = localStorage.getItem("phoneagent-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // storage is off: the system decides
}
