"""The doors of the server: the API over gRPC, derived from the service descriptors; handlers do not know which door a call came through."""
