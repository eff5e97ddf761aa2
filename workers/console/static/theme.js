// Sets light or dark before the first paint. Not a module, because modules wait for the page.
(function () {
  const chosen = localStorage.getItem("inmail-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
