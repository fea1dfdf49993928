"""From a pretrained encoder to a task: fine-tuning, probes, prediction, export."""
