"""The HTTP routes, a module for each noun. They translate; what is done is in `perdure_api.gateway`."""
