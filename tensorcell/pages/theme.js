// The button that switches between light and dark. It starts as the system is set, and follows that until it is pressed.
(() => {
  "use strict";
  const button = document.getElementById("theme"), system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = [...document.styleSheets[0].cssRules].find((rule) => rule.media?.mediaText.includes("color-scheme"));
  if (!button || !dark) return;
  const show = (pressed) => button.setAttribute("aria-pressed", String(pressed));
  let chosen = false;
  show(system.matches);
  system.addEventListener("change", () => chosen || show(system.matches));
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    chosen = true;
    dark.media.mediaText = pressed ? "screen" : "not all";
    show(pressed);
  });
  button.hidden = false;
})();
