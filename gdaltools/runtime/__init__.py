"""What any work needs to run: task graphs, scratch folders, interruption, and text that is safe to show."""
