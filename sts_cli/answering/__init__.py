"""Questions to answers: which are asked together, what is remembered, what a failure costs."""
