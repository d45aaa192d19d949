"""The command line: arguments to settings, settings to a running server. Thin; heavy parts are imported by the command that needs them."""
