// Light or dark, before anything is painted. Not a module: those wait for the page.
(function () {
  const chosen = localStorage.getItem("inmail-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
