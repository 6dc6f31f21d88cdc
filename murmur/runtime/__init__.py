"""The publisher: admits and publishes tasks, collects their results, resumes what was begun."""
