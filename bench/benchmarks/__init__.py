"""The project's own history of speed, by airspeed velocity: `asv run` in bench/."""
