// The description of the server, drawn by Swagger UI; the token is that of the page.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor: (request) => {
    const token = sessionStorage.getItem("token");
    if (token) request.headers.Authorization ??= `Bearer ${token}`;
    return request;
  },
});
