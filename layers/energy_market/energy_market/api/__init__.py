"""The API edge: from a request of API Gateway to a view, and back."""
