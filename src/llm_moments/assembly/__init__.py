"""A model, its task, a plan and engines put together; saved as an artefact and opened again."""
