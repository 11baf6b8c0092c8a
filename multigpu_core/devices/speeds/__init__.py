"""How fast a machine is: measured, kept in a file, or as published. Imported by everything above devices."""
