"""What any work needs to run: task graphs, scratch folders, interruption, and text safe to show."""
