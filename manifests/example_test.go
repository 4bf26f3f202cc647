package manifests_test

import (
	"fmt"

	"github.com/kas-agentk/kas/manifests"
)

func Example() {
	repository := map[string]string{
		"web/config.yaml": "# how the web looks\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: web\n",
		"web/broken.yaml": "apiVersion: v1\nkind: Secret\nmetadata:\n\tname: web\n",
		"README.md":       "hello",
	}
	selector, err := manifests.NewSelector([]string{"/web/**/*.yaml"})
	if err != nil {
		fmt.Println(err)
		return
	}
	var files []manifests.FileResult
	for path, content := range repository {
		if selector.Match(path) {
			files = append(files, manifests.ParseFile(path, []byte(content), manifests.DefaultLimits()))
		}
	}
	set := manifests.Assemble(files, "default", manifests.DefaultLimits())
	for i := range set.Objects {
		fmt.Println(set.Objects[i].Position, set.Objects[i].ID.GroupKind.Kind, set.Objects[i].ID.Name)
	}
	for i := range set.Errors {
		fmt.Println(set.Errors[i].Error())
	}
	fmt.Println("complete:", set.Complete)
	// Output:
	// web/config.yaml:2 ConfigMap web
	// web/broken.yaml:4: a tab is used for indentation: YAML allows only spaces there
	// complete: false
}
