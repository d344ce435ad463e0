"""Reports for people: pictures of rain, figures of skill, one offline page of each."""
